"""Ingestion: every form of source gives the same samples, and every bad record leaves with its reason."""

import base64
import copy
import importlib
import io
import json
import struct
import typing
import warnings
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ost.data import FEATURES, Sample, chat, write_samples
from ost.errors import DataError
from ost.ingestion import Broken, Ingested, Quarantined, Reason, ingest, read_records, write_quarantine
from ost.ingestion import checks as ingestion_checks
from ost.models import Checkpoint
from ost.models.tiny import PROXY, build_model
from ost.worlds import handmath

torch.set_num_threads(1)
MAX_TOKENS, MAX_PIXELS = 64, 10_000


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    processor = handmath.processor()
    return Checkpoint(build_model(PROXY, processor, 0), processor)


@pytest.fixture(scope="module")
def clean() -> dict[str, list[Sample]]:
    """Samples of the built-in world for each source; no two ask the same."""
    sizes = {"pool": 8, "anchors": 4, "benchmark": 4}
    return {source: [handmath.to_sample(p) for p in handmath.draw(source, n, 0)] for source, n in sizes.items()}


@pytest.fixture
def take(checkpoint, clean, tmp_path):
    """Ingest with some sources replaced, by samples, by JSONL records, or by the path of a source."""

    def _take(**sources) -> Ingested:
        paths = [_stored(tmp_path, source, sources.get(source, clean[source])) for source in clean]
        result = ingest(*paths, checkpoint, max_tokens=MAX_TOKENS, max_pixels=MAX_PIXELS)
        for counts in result.counts.values():
            assert (
                counts["read"]
                == counts["kept"] + counts["quarantined"]
                == counts["kept"] + sum(counts["reasons"].values())
            )
        return result

    return _take


def _stored(folder: Path, source: str, content) -> Path:
    if isinstance(content, Path):
        return content
    if isinstance(content[0], Sample):
        return write_samples(folder / source / f"{source}.parquet", content)
    return write_jsonl(folder / source, content)


def write_jsonl(folder: Path, records: list[dict | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path = folder / "samples.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def encoded(size: tuple[int, int] = (32, 16), form: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def record(question: str = "What is it?", answer: str = "1", **changes) -> dict:
    """A good record, then changed."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"images": [data_url(encoded())], "messages": messages} | changes


def as_record(sample: Sample, image_names: list[str]) -> dict:
    return {"images": image_names, "messages": list(sample.messages), "task": sample.task, "id": "a user's own"}


# --- the forms ------------------------------------------------------------------------------------------------------


def jsonl_form(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir()
    for number, sample in enumerate(samples):
        (folder / f"{number}.png").write_bytes(sample.images[0])
    return write_jsonl(folder, [as_record(sample, [f"{number}.png"]) for number, sample in enumerate(samples)])


def data_url_form(folder: Path, samples: list[Sample]) -> Path:
    return write_jsonl(folder, [as_record(sample, [data_url(sample.images[0])]) for sample in samples])


def plain_text_form(folder: Path, samples: list[Sample]) -> Path:
    """String contents, no image parts, one `image`: the form that a person writes by hand."""
    return write_jsonl(
        folder,
        [record(s.question, s.answer, images=None, image=data_url(s.images[0]), task=s.task) for s in samples],
    )


def parquet_form(folder: Path, samples: list[Sample]) -> Path:
    return write_samples(folder / "samples.parquet", samples)


def shards_form(folder: Path, samples: list[Sample]) -> Path:
    numbers = range(len(samples))
    for number in [*numbers[1::2], *numbers[::2]]:  # in no order that a file system might list them in by itself
        write_samples(folder / f"{number}.parquet", [samples[number]])
    return folder


def raw_bytes_form(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir()
    columns = {
        "images": [list(sample.images) for sample in samples],
        "messages": [list(sample.messages) for sample in samples],
        "task": [sample.task for sample in samples],
    }
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    return folder / "samples.parquet"


def datasets_form(folder: Path, samples: list[Sample]) -> Path:
    rows = [as_record(sample, [{"bytes": sample.images[0], "path": None}]) for sample in samples]
    decoding = datasets.Features(FEATURES | {"images": datasets.List(datasets.Image())})
    datasets.Dataset.from_list(rows, features=decoding).save_to_disk(str(folder))
    return folder


FORMS = [jsonl_form, data_url_form, plain_text_form, parquet_form, shards_form, raw_bytes_form, datasets_form]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_the_same_samples(form, take, clean, tmp_path):
    result = take(pool=form(tmp_path / "form", clean["pool"]))
    assert result.quarantine == []
    assert result.pool == clean["pool"], "ids, messages, images, tasks and their order"


def test_parquet_images_may_be_paths_below_the_source(take, clean, tmp_path):
    sample = clean["pool"][0]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(sample.images[0])
    rows = [as_record(sample, [{"bytes": None, "path": "images/a.png"}])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert take(pool=tmp_path / "rows.parquet").pool == [sample]


def test_blank_lines_are_no_records(take):
    result = take(pool=[b"\xef\xbb\xbf" + json.dumps(record()).encode(), b"", b"  ", record(answer="")])
    assert result.counts["pool"] == {"read": 2, "kept": 1, "quarantined": 1, "reasons": {"empty-answer": 1}}
    assert result.quarantine[0].index == 1


def test_a_sample_without_images_is_fine(take):
    assert len(take(pool=[record(images=[]), record("Another?", images=None)]).pool) == 2


def test_placed_images_open_the_first_user_turn(take):
    turns = [{"role": "system", "content": "Be brief."}, *record()["messages"], *record("And now?")["messages"]]
    images = [data_url(encoded(seed=0)), data_url(encoded(seed=1))]
    (sample,) = take(pool=[record(messages=turns, images=images)]).pool
    kinds = [[part["type"] for part in turn["content"]] for turn in sample.messages]
    assert kinds == [["text"], ["image", "image", "text"], ["text"], ["text"], ["text"]]


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda folder: folder / "absent.jsonl", "nothing is at"),
        (lambda folder: _touch(folder / "samples.csv", b"a,b"), r"\.csv file"),
        (lambda folder: _touch(folder / "inner" / "notes.txt", b"").parent, "notes.txt"),
        (lambda folder: _touch(folder / "saved" / "state.json", b"{}").parent, "cannot be read to its end"),
    ],
    ids=["absent", "csv", "folder of other things", "damaged dataset"],
)
def test_an_unreadable_source_is_a_data_error_that_names_the_forms(make, found, take, tmp_path):
    with pytest.raises(DataError, match=found) as error:
        take(pool=make(tmp_path))
    assert "save_to_disk" in str(error.value), "the message must say what can be given"


def _touch(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_folder_of_splits_names_them(clean, tmp_path):
    rows = datasets.Dataset.from_list([{"messages": list(clean["pool"][0].messages)}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        read_records(tmp_path / "splits")


def test_a_table_without_messages_names_its_columns(take, tmp_path):
    pq.write_table(pa.table({"conversations": ["a"], "image": [b""]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"no column `messages` \(found: conversations, image\)"):
        take(pool=tmp_path / "rows.parquet")


# --- files of a folder ----------------------------------------------------------------------------------------------


def test_a_folder_is_read_however_deep_and_in_both_forms(take, clean, tmp_path):
    first, second, third = clean["pool"][:3]
    write_samples(tmp_path / "pool/2026-11-01/part.parquet", [first])
    (tmp_path / "pool/2026-11-08").mkdir()
    (tmp_path / "pool/2026-11-08/image.png").write_bytes(second.images[0])
    write_jsonl(tmp_path / "pool/2026-11-08", [as_record(second, ["2026-11-08/image.png"])])
    write_samples(tmp_path / "pool/2026-11-15/part.parquet", [third])
    write_samples(tmp_path / "pool/.kept/part.parquet", [clean["pool"][3]])
    assert [sample.id for sample in take(pool=tmp_path / "pool").pool] == [first.id, second.id, third.id]


def _damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _of_another_form(path: Path) -> None:
    pq.write_table(pa.table({"conversations": ["a"]}), path)


@pytest.mark.parametrize(
    ("spoil", "found"), [(_damaged, "cannot be read"), (_of_another_form, "no column `messages`")], ids=["cut", "other"]
)
def test_a_file_that_cannot_be_read_is_quarantined_and_the_rest_goes_on(spoil, found, take, clean, tmp_path):
    for name, sample in zip("abc", clean["pool"], strict=False):
        write_samples(tmp_path / f"pool/{name}.parquet", [sample])
    spoil(tmp_path / "pool/b.parquet")
    result = take(pool=tmp_path / "pool")
    assert result.pool == [clean["pool"][0], clean["pool"][2]]
    (entry,) = result.quarantine
    assert (entry.index, entry.reason) == (1, "broken-file")
    assert "b.parquet" in entry.detail and found in entry.detail
    assert any("pool: b.parquet" in note for note in result.warnings)


def test_a_damaged_row_group_takes_no_other_with_it(take, tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"messages": [list(chat(question, "1", images=0)) for question in "abcd"]})
    pq.write_table(table, path, row_group_size=2, compression="zstd", use_dictionary=False)
    facts = pq.ParquetFile(path).metadata.row_group(0)
    content = bytearray(path.read_bytes())
    for index in range(facts.num_columns):
        start = facts.column(index).data_page_offset
        content[start : start + facts.column(index).total_compressed_size] = bytes(
            facts.column(index).total_compressed_size
        )
    path.write_bytes(content)
    result = take(pool=path)
    assert [sample.question for sample in result.pool] == ["c", "d"]
    (entry,) = result.quarantine
    assert entry.reason == "broken-file"
    assert "row group 0 of rows.parquet cannot be read" in entry.detail and "2 of its 2 rows" in entry.detail


def test_a_row_group_that_would_grow_without_bound_is_not_unpacked(take, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ost.ingestion.readers"), "MOST_UNPACKED", 1 << 16)
    write_samples(tmp_path / "pool/a.parquet", clean["pool"][:1])
    bomb = pa.table({"messages": [list(chat("0" * (1 << 24), "1", images=0))]})
    pq.write_table(bomb, tmp_path / "pool/b.parquet", compression="zstd")
    assert (tmp_path / "pool/b.parquet").stat().st_size < 1 << 14
    result = take(pool=tmp_path / "pool")
    assert result.pool == clean["pool"][:1]
    (entry,) = result.quarantine
    assert entry.reason == "broken-file" and "row group 0 of b.parquet would grow from" in entry.detail


def test_what_could_not_be_brought_here_is_counted_with_the_rest(checkpoint, clean, tmp_path):
    paths = [_stored(tmp_path, source, samples) for source, samples in clean.items()]
    refused = {"pool": [Broken("x.parquet came with other bytes", "broken-file")]}
    result = ingest(*paths, checkpoint, max_tokens=MAX_TOKENS, max_pixels=MAX_PIXELS, refused=refused)
    assert result.counts["pool"] == {"read": 9, "kept": 8, "quarantined": 1, "reasons": {"broken-file": 1}}
    assert result.counts["anchors"]["quarantined"] == 0


# --- the reasons ----------------------------------------------------------------------------------------------------

PNG = encoded()
USER, ANSWER = record()["messages"]
IMAGE_PART = {"type": "image"}

BAD: dict[str, tuple[Reason, dict | bytes]] = {
    "no JSON": ("malformed", b'{"messages": ['),
    "no UTF-8": ("malformed", b'{"messages": "\xff"}'),
    "nested without end": ("malformed", b"[" * 100_000),
    "no object": ("malformed", b"[1, 2]"),
    "no messages": ("malformed", {"images": [data_url(PNG)]}),
    "messages are no list": ("malformed", record(messages="hello")),
    "messages are empty": ("malformed", record(messages=[])),
    "a message is text": ("malformed", record(messages=["hello", ANSWER])),
    "an unknown role": ("malformed", record(messages=[USER, {"role": "tool", "content": "x"}, ANSWER])),
    "a role that cannot be hashed": ("malformed", record(messages=[{"role": [], "content": "x"}, ANSWER])),
    "content is a number": ("malformed", record(messages=[{"role": "user", "content": 3}, ANSWER])),
    "a part is text": ("malformed", record(messages=[{"role": "user", "content": ["x"]}, ANSWER])),
    "a video part": ("malformed", record(messages=[{"role": "user", "content": [{"type": "video"}]}, ANSWER])),
    "a text part without text": (
        "malformed",
        record(messages=[{"role": "user", "content": [{"type": "text"}]}, ANSWER]),
    ),
    "half a surrogate pair": ("malformed", record("\ud83d")),
    "the user speaks last": ("malformed", record(messages=[USER, ANSWER, USER])),
    "nothing was asked": ("malformed", record(messages=[ANSWER])),
    "task is a number": ("malformed", record(task=3)),
    "images are no list": ("malformed", record(images="a.png")),
    "an image is a number": ("malformed", record(images=[3])),
    "image and images": ("malformed", record(image=data_url(PNG))),
    "more image parts than images": (
        "malformed",
        record(messages=[{"role": "user", "content": [IMAGE_PART, IMAGE_PART]}, ANSWER]),
    ),
    "image parts without images": (
        "malformed",
        record(images=[], messages=[{"role": "user", "content": [IMAGE_PART]}, ANSWER]),
    ),
    "an image part in the answer": (
        "malformed",
        record(messages=[USER, {"role": "assistant", "content": [IMAGE_PART, {"type": "text", "text": "1"}]}]),
    ),
    "text spells the image token": ("malformed", record("<|image_pad|> what?")),
    "the processor refuses it": ("malformed", record(images=[data_url(encoded((8000, 1)))])),
    "absent file": ("missing-image", record(images=["absent.png"])),
    "a folder": ("missing-image", record(images=["."])),
    "a web address": ("missing-image", record(images=["https://example.org/a.png"])),
    "a zero byte": ("missing-image", record(images=["a\0.png"])),
    "a name too long": ("missing-image", record(images=["a" * 5000])),
    "neither bytes nor path": ("missing-image", record(images=[{"bytes": None, "path": None}])),
    "null": ("missing-image", record(images=[None])),
    "parent folder": ("image-outside-folder", record(images=["../secret.png"])),
    "absolute path": ("image-outside-folder", record(images=["/etc/hostname"])),
    "no image bytes": ("broken-image", record(images=[data_url(b"")])),
    "not base64": ("broken-image", record(images=["data:image/png;base64,@@@"])),
    "a data URL in plain text": ("broken-image", record(images=["data:image/svg+xml,<svg/>"])),
    "a format not allowed": ("broken-image", record(images=[data_url(encoded(form="PPM"))])),
    "a checksum that disagrees": (
        "broken-image",
        record(images=[data_url(PNG[:-16] + bytes([PNG[-16] ^ 1]) + PNG[-15:])]),
    ),
    "a flipped bit": ("broken-image", record(images=[data_url(PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:])])),
    "too many pixels": ("image-too-large", record(images=[data_url(encoded((101, 100)))])),
    "blank answer": ("empty-answer", record(answer=" \n")),
    "an answer without parts": ("empty-answer", record(messages=[USER, {"role": "assistant", "content": []}])),
    "too long": ("too-long", record("What is it? " * MAX_TOKENS)),
    "too long to be counted": ("too-long", record("?" * (2**20 + 1))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_quarantined_with_its_reason(name, take):
    reason, bad = BAD[name]
    result = take(pool=[record("first?"), bad, record("last?")])
    assert [sample.question for sample in result.pool] == ["first?", "last?"], "its neighbours must stay"
    (entry,) = result.quarantine
    assert (entry.source, entry.index, entry.reason) == ("pool", 1, reason), entry.detail
    assert entry.detail


def test_every_reason_is_tested():
    elsewhere = {"duplicate", "in-anchors", "in-benchmark", "broken-file"}
    assert {reason for reason, _ in BAD.values()} | elsewhere == set(typing.get_args(Reason))


def test_bad_records_together_are_each_counted(take):
    result = take(pool=[record("good?"), *(bad for _, bad in BAD.values())])
    expected = [reason for reason, _ in BAD.values()]
    assert [entry.reason for entry in result.quarantine] == expected, "in the source's order"
    assert result.counts["pool"]["read"] == len(BAD) + 1
    assert result.quarantine == take(pool=[record("good?"), *(bad for _, bad in BAD.values())]).quarantine


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_image_is_broken_and_a_whole_one_is_not(form, take):
    whole = encoded(form=form)
    cut = whole[: len(whole) * 2 // 3]
    result = take(pool=[record(images=[data_url(whole)]), record(images=[data_url(cut)])])
    assert [(entry.index, entry.reason) for entry in result.quarantine] == [(1, "broken-image")]


def test_a_spelled_image_token_is_refused_where_no_image_would_give_it_away(take):
    """Among samples without images the processor accepts the text; only training would miss the image."""
    result = take(pool=[record("<|image_pad|> what?", images=[]), record("what?", images=[])])
    assert [(entry.index, entry.reason) for entry in result.quarantine] == [(0, "malformed")]
    assert "spells <|image_pad|>" in result.quarantine[0].detail


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(take, tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(seed=1))
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "real.png").write_bytes(PNG)
    (folder / "inside.png").symlink_to("real.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    names = ["inside.png", "outside.png", "loop.png"]
    result = take(pool=write_jsonl(folder, [record(images=[name]) for name in names]))
    assert len(result.pool) == 1
    assert [entry.reason for entry in result.quarantine] == ["image-outside-folder", "missing-image"]


def test_a_decompression_bomb_is_neither_decoded_nor_warned_about(take, monkeypatch):
    bombs = [encoded((100, 90)), encoded((100, 70))]  # beyond twice PIL's own limit; beyond it once
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = take(pool=[record("a", images=[data_url(bomb)]) for bomb in bombs])
    assert [entry.reason for entry in result.quarantine] == ["image-too-large"]
    assert result.quarantine[0].index == 0


def test_too_large_is_said_by_the_header_alone():
    """A PNG whose header promises 200 × 200 pixels and that ends there: decoding would call it broken."""
    header = b"IHDR" + struct.pack(">II", 200, 200) + b"\x08\x02\0\0\0"
    image = PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 9) + b"IDAT"
    assert ingestion_checks.image_fault(image, 200 * 200).reason == "broken-image"
    fault = ingestion_checks.image_fault(image, 200 * 200 - 1)
    assert fault == ("image-too-large", "40000 pixels, more than data.max_pixels = 39999")


def test_a_row_that_is_not_utf8_takes_no_other_with_it(take, tmp_path):
    contents = pa.array([b"a", b"1", b"\xff", b"1", b"c", b"1"]).view(pa.string())  # Arrow does not look inside
    turns = pa.StructArray.from_arrays([pa.array(["user", "assistant"] * 3), contents], ["role", "content"])
    table = pa.table({"messages": pa.ListArray.from_arrays([0, 2, 4, 6], turns)})
    pq.write_table(table, tmp_path / "rows.parquet")
    result = take(pool=tmp_path / "rows.parquet")
    assert [sample.question for sample in result.pool] == ["a", "c"]
    assert [(entry.index, entry.reason) for entry in result.quarantine] == [(1, "malformed")]


def test_samples_are_never_cut(take):
    """One token more is enough to go, and what stays keeps all its text."""
    questions = ["?" * count for count in range(1, MAX_TOKENS)]
    result = take(pool=[record(question) for question in questions])
    kept = [sample.question for sample in result.pool]
    assert 0 < len(kept) < len(questions)
    assert kept == questions[: len(kept)]
    assert {entry.reason for entry in result.quarantine} == {"too-long"}
    assert f"{MAX_TOKENS + 1} tokens" in result.quarantine[0].detail


def test_batches_are_bounded_by_samples_and_by_pixels(clean, monkeypatch):
    sample = clean["pool"][0]
    monkeypatch.setattr(ingestion_checks, "BATCH_SAMPLES", 3)
    assert [len(batch) for batch in ingestion_checks.batches([sample] * 7)] == [3, 3, 1]
    monkeypatch.setattr(ingestion_checks, "BATCH_PIXELS", 2 * 32 * 16)
    assert [len(batch) for batch in ingestion_checks.batches([sample] * 5)] == [2, 2, 1]


# --- overlaps -------------------------------------------------------------------------------------------------------


def test_a_repeated_sample_is_a_duplicate_whatever_its_task(take):
    result = take(pool=[record(task="one"), record(answer="2"), record(task="two", id="new")])
    assert [(entry.index, entry.reason) for entry in result.quarantine] == [(2, "duplicate")]
    assert result.quarantine[0].id == result.pool[0].id


def answered(sample: Sample, answer: str) -> Sample:
    return Sample(sample.images, chat(sample.question, answer), sample.task)


@pytest.mark.parametrize("answer", [None, "something else"])
@pytest.mark.parametrize(
    ("source", "other"), [("pool", "anchors"), ("pool", "benchmark"), ("anchors", "benchmark")], ids=str
)
def test_what_stands_in_a_later_set_is_left_out_and_said(source, other, answer, take, clean):
    shared = clean[other][0]
    leaked = shared if answer is None else answered(shared, answer)
    result = take(**{source: [*clean[source], leaked]})
    (entry,) = result.quarantine
    assert (entry.source, entry.reason, entry.id) == (source, f"in-{other}", leaked.id)
    assert leaked not in getattr(result, source)
    assert result.counts[other]["kept"] == len(clean[other]), "the set that is leaked from stays whole"
    assert any(f"1 sample(s) of the {source} also stand in the {other}" in note for note in result.warnings)


def test_another_image_is_another_question(take, clean):
    anchor, twin = clean["anchors"][0], Sample((PNG,), clean["anchors"][0].messages)
    assert anchor.question == twin.question
    assert take(pool=[twin]).pool == [twin]


# --- the whole ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["pool", "anchors", "benchmark"])
def test_a_source_with_nothing_left_is_a_data_error(source, take):
    with pytest.raises(DataError, match=rf"{source}: none of the 2 record\(s\).*1 malformed.*1 empty-answer") as error:
        take(**{source: [b"?", record(answer="")]})
    assert "line 1 of samples.jsonl is not JSON" in str(error.value), "the first fault is the user's way in"


def test_an_empty_source_is_a_data_error(take):
    with pytest.raises(DataError, match=r"holds no records; point data\.pool"):
        take(pool=[b""])


def test_warnings_name_uncovered_tasks_and_a_small_pool(take, clean):
    pool = [record(str(number), task=task) for number, task in enumerate(["maps", "charts", "sum", ""])]
    tasks, small = take(pool=pool).warnings
    assert "task(s) charts, maps:" in tasks
    assert small.startswith("the pool has 4 samples, under 1,000")


def test_a_large_pool_whose_tasks_are_covered_gives_no_warning(take, monkeypatch):
    # By import, because the package's attribute of that name is the function.
    monkeypatch.setattr(importlib.import_module("ost.ingestion.ingest"), "SMALL_POOL", 8)
    assert take().warnings == []


def test_without_a_benchmark_the_other_two_are_read(checkpoint, clean, tmp_path):
    paths = [_stored(tmp_path, source, clean[source]) for source in ("pool", "anchors")]
    result = ingest(*paths, None, checkpoint, max_tokens=MAX_TOKENS, max_pixels=MAX_PIXELS)
    assert (result.pool, result.anchors, result.benchmark) == (clean["pool"], clean["anchors"], [])
    assert sorted(result.counts) == ["anchors", "pool"]


def test_progress_ends_at_the_total(checkpoint, clean, tmp_path):
    calls = []
    paths = [_stored(tmp_path, source, samples) for source, samples in clean.items()]
    ingest(*paths, checkpoint, max_tokens=MAX_TOKENS, max_pixels=MAX_PIXELS, progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(4, 4), (4, 4), (8, 8)]


def test_the_quarantine_table_holds_every_entry(tmp_path):
    entries = [Quarantined("pool", 3, "", "malformed", "why"), Quarantined("anchors", 0, "ab", "too-long", "65 tokens")]
    for content in ([], entries):
        table = pq.read_table(write_quarantine(tmp_path / "quarantine.parquet", content))
        assert table.column_names == ["source", "index", "id", "reason", "detail"]
        assert [Quarantined(**row) for row in table.to_pylist()] == content


# --- anything at all ------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["image", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "role"]), inner),
    max_leaves=5,
)
PLACES = [
    ("images",),
    ("images", 0),
    ("messages",),
    ("messages", 0),
    ("messages", 0, "role"),
    ("messages", 1, "content"),
    ("messages", 0, "content", 0),
    ("messages", 0, "content", 1, "text"),
    ("task",),
]
WHOLE = {"images": [data_url(PNG)], "messages": list(chat("q", "a")), "task": "t"}


def replaced(place: tuple, value) -> bytes:
    changed = inner = copy.deepcopy(WHOLE)
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return json.dumps(changed).encode()


def cut(start: int, length: int) -> bytes:
    line = json.dumps(WHOLE).encode()
    return line[: start % len(line)] + line[start % len(line) + length :]


LINES = (
    st.builds(replaced, st.sampled_from(PLACES), JSON)
    | st.builds(cut, st.integers(0, 2**16), st.integers(0, 40))
    | st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))
)


@settings(max_examples=50)
@given(lines=st.lists(LINES, min_size=1, max_size=6))
def test_no_line_raises_and_none_is_lost(lines, checkpoint, clean, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    pool = write_jsonl(folder, [record("kept?"), *lines])
    anchors, benchmark = (_stored(folder, source, clean[source]) for source in ("anchors", "benchmark"))
    result = ingest(pool, anchors, benchmark, checkpoint, max_tokens=MAX_TOKENS, max_pixels=MAX_PIXELS)
    counts = result.counts["pool"]
    written = 1 + sum(1 for line in lines if line.strip())
    assert counts["read"] == written == counts["kept"] + counts["quarantined"], "a line was dropped without a reason"
    write_quarantine(folder / "quarantine.parquet", result.quarantine)
    write_samples(folder / "kept.parquet", result.pool)


@settings(max_examples=50)
@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=5))
def test_the_reader_yields_one_thing_a_line(lines, tmp_path_factory):
    path = write_jsonl(tmp_path_factory.mktemp("lines"), lines)
    records = list(read_records(path))
    assert len(records) == sum(1 for line in lines if line.strip())
    assert all(isinstance(record, dict | Broken) for record in records)


def mutated(content: bytes, edits: list[tuple[int, bytes]], length: int) -> bytes:
    """The content with bytes overwritten at some places, then cut."""
    changed = bytearray(content)
    for place, new in edits:
        start = place % len(content)
        changed[start : start + len(new)] = new
    return bytes(changed[: len(content) - length % len(content)])


EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), max_size=6)


@settings(max_examples=200)
@given(form=st.sampled_from(["jsonl", "parquet"]), edits=EDITS, length=st.just(0) | st.integers(0, 2**12))
def test_a_mutated_file_never_raises_and_its_records_are_all_accounted_for(
    form, edits, length, checkpoint, clean, tmp_path_factory
):
    """Beside a whole file, which must stay: a damaged one costs itself alone."""
    folder = tmp_path_factory.mktemp("mutated")
    write_samples(folder / "pool/a-whole.parquet", clean["pool"][:2])
    victim = {"jsonl": data_url_form, "parquet": parquet_form}[form](folder / "pool/b", clean["pool"][2:])
    victim.write_bytes(mutated(victim.read_bytes(), edits, length))
    anchors, benchmark = (_stored(folder, source, clean[source]) for source in ("anchors", "benchmark"))
    result = ingest(folder / "pool", anchors, benchmark, checkpoint, max_tokens=MAX_TOKENS, max_pixels=MAX_PIXELS)
    counts = result.counts["pool"]
    assert result.pool[:2] == clean["pool"][:2]
    assert counts["read"] == counts["kept"] + counts["quarantined"] == len(result.pool) + len(result.quarantine)
    assert counts["read"] == 8 or "broken-file" in counts["reasons"] or form == "jsonl"
    write_quarantine(folder / "quarantine.parquet", result.quarantine)
    write_samples(folder / "kept.parquet", result.pool)
