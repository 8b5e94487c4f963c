"""Pools for the tests of exports, and the sources that they come from."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ost.data import Dataset, Facts, Sample, ShardWriter, chat
from ost.data.dataset import write_listing
from ost.data.picture import size_of
from ost.data.sample import learned_last
from ost.formats import Images, load, open_source, parse
from ost.selection import selection_table

IMAGE, TOKENS = {"type": "image", "text": None}, 100


def image(seed: int, size: tuple[int, int] = (8, 6), form: str = "PNG", **saved) -> bytes:
    """A picture like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), form, **saved)
    return buffer.getvalue()


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def turn(role: str, *parts: dict | str, **extra) -> dict:
    return {"role": role, "content": [text(part) if isinstance(part, str) else part for part in parts]} | extra


def conversations() -> list[tuple[Sample, object]]:
    """Samples of every shape, each with the id that the user gave it."""
    two = (turn("user", "First ", IMAGE, " then ", IMAGE, ": which is darker?"), turn("assistant", "the second"))
    rounds = (
        turn("user", IMAGE, "\nWhat is it?"),
        turn("assistant", "a cat"),
        turn("user", "And this? ", IMAGE),
        turn("assistant", "a dog"),
    )
    system = (turn("system", "Be brief."), *chat("How many?", "7"))
    return [
        (Sample((), chat("Is it text?", "Yes, «žluť» 字 \u2028 it is.", 0)), 17),
        (Sample((image(1),), chat("What is it?", "007")), "a/1"),
        (Sample((image(2), image(3, form="JPEG")), two), "2024-01-01"),
        (Sample((image(4), image(1)), rounds), "múlti"),
        (Sample((image(5, form="WEBP"),), system), 18),
        (Sample((), chat("null", "null", 0), task="odd"), "null"),
        (Sample((image(6),), (turn("user", "Where is ", IMAGE, "?"), turn("assistant", "\n here"))), "b"),
    ]


def pool_of(folder: Path, samples: Iterable[tuple[Sample, object]], tokens: Sequence[int] | None = None) -> Dataset:
    """Samples as ingestion leaves them, with the users' own ids."""
    with ShardWriter(folder) as writer:
        for at, (sample, own) in enumerate(samples):
            sizes = tuple(map(size_of, sample.images))
            name = None if own is None else json.dumps(own)
            count = tokens[at] if tokens else TOKENS + at
            writer.add(sample, Facts(count, 3, sizes, "rows.jsonl", at, name))
    write_listing(folder, writer.shards, {})
    return Dataset(folder)


def ingested(source: str | Path, folder: Path, *, columns: Mapping[str, str] = {}, roots=(), train_on="all") -> Dataset:
    """A source as ingestion would take it in, without its checks."""
    opened = open_source(source)
    images = Images(opened.root, roots)
    with ShardWriter(folder) as writer:
        for unit in opened.units():
            for position, record in load(unit, columns).records:
                draft = parse(record, columns)
                found = tuple(images.load(images.locate(value, unit.file)) for value in draft.images)
                messages = learned_last(draft.messages) if train_on == "last" else draft.messages
                sizes = tuple(map(size_of, found))
                facts = Facts(TOKENS + position, 3, sizes, unit.name, position, draft.own_id)
                writer.add(Sample(found, messages, draft.task), facts)
    write_listing(folder, writer.shards, {})
    return Dataset(folder)


def keeping(pool: Dataset, kept: Sequence[int] | None = None) -> pa.Table:
    """A selection of the samples at these places, the best first; all, in the pool's order, without them."""
    ids = pool.ids()
    return selection_table(ids, [ids[at] for at in (range(len(ids)) if kept is None else kept)], "not drawn")


def read_again(address: Path, columns: Mapping[str, str] = {}) -> list[tuple[Sample, str | None]]:
    """What ingestion would make of what stands there, and the users' own ids as JSON text."""
    opened = open_source(address)
    images = Images(opened.root)
    found = []
    for unit in opened.units():
        for _, record in load(unit, columns).records:
            draft = parse(record, columns)
            own = tuple(images.load(images.locate(value, unit.file)) for value in draft.images)
            found.append((Sample(own, draft.messages, draft.task), draft.own_id))
    return found
