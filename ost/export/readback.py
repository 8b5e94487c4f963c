"""Reads an export again, as ingestion would: what stands there, sample by sample."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ost.data import sample_id
from ost.data.sample import learned_last
from ost.formats import Draft, Rejected, Source, load, open_source, parse

LoadImages = Callable[[Sequence[Any], Path, int], Sequence[bytes]]
"""The bytes of a record's images, given how it names them, its file, and its place among all records."""


@dataclass(frozen=True, slots=True)
class Read:
    """A record that was read again."""

    place: str
    """What messages call it."""
    draft: Draft | None
    """None where it cannot be read."""
    id: str = ""
    """Digest of its content."""
    why: str = ""
    """Why it cannot be read."""


def written_source(folder: Path, names: Iterable[str]) -> Source:
    """The user's own files in an export, and no other: by the names that they had in their source.

    A saved `datasets` table has new ones.
    """
    if (folder / "state.json").is_file():
        return open_source(folder)
    files = tuple(folder / name for name in dict.fromkeys(names))
    return Source(folder.resolve(), files, (), 0, folder)


def read_back(source: Source, images: LoadImages, columns: Mapping[str, str], train_on: str) -> Iterator[Read]:
    """The records of a source in order, each with the id that it has as a sample."""
    count = 0
    for unit in source.units():
        for position, record in load(unit, columns).records:
            place, draft = f"record {position} of {unit.name}", None
            try:
                draft = parse(record, columns)
                messages = learned_last(draft.messages) if train_on == "last" else draft.messages
                yield Read(place, draft, sample_id(images(draft.images, unit.file, count), messages))
            except Rejected as rejected:
                yield Read(place, None, why=": ".join(rejected.why))
            count += 1
