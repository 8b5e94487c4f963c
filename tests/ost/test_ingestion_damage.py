"""Damaged files and bombs cost themselves alone; whatever stands in a file, each record is kept or has its reason."""

import importlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_records import LINES
from pools import FORMS, Intake, as_record, data_url, encoded, record, talk, write_jsonl, write_tar

from ost.data import Sample, chat, write_samples
from ost.formats import Broken
from ost.ingestion import write_quarantine


def test_a_folder_is_read_however_deep_and_in_all_forms(take, clean, tmp_path):
    first, second, third, fourth, hidden = clean["pool"][:5]
    write_samples(tmp_path / "pool/2026-11-01/part.parquet", [first])
    (tmp_path / "pool/2026-11-08").mkdir()
    (tmp_path / "pool/2026-11-08/image.png").write_bytes(second.images[0])
    write_jsonl(tmp_path / "pool/2026-11-08", [as_record(second, ["image.png"])])
    (tmp_path / "pool/2026-11-15").mkdir()
    members = [("0.png", third.images[0]), ("0.json", json.dumps(as_record(third, [])).encode())]
    write_tar(tmp_path / "pool/2026-11-15/a.tar", members)
    rows = json.dumps([as_record(fourth, map(data_url, fourth.images))]).encode()
    (tmp_path / "pool/2026-11-22.json.zst").write_bytes(zstandard.compress(rows))
    write_samples(tmp_path / "pool/.kept/part.parquet", [hidden])
    (tmp_path / "pool/notes.txt").write_text("not read")
    result = take(pool=tmp_path / "pool")
    assert result["pool"].ids() == [sample.id for sample in (first, second, third, fourth)]
    assert any("pool: 1 file(s) are in no form that is read: notes.txt" in note for note in result.warnings)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_turns(path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a"]}), path)


@pytest.mark.parametrize(
    ("spoil", "found"), [(_cut, "cannot be read"), (_without_turns, "no column of turns")], ids=["cut", "other"]
)
def test_a_file_that_cannot_be_read_is_quarantined_and_the_rest_goes_on(spoil, found, take, clean, tmp_path):
    for name, sample in zip("abc", clean["pool"], strict=False):
        write_samples(tmp_path / f"pool/{name}.parquet", [sample])
    spoil(tmp_path / "pool/b.parquet")
    result = take(pool=tmp_path / "pool")
    assert list(result["pool"]) == [clean["pool"][0], clean["pool"][2]]
    (entry,) = result.quarantine
    assert (entry.file, entry.position, entry.reason) == ("b.parquet", 0, "broken-file")
    assert "b.parquet" in entry.detail and found in entry.detail and str(tmp_path) not in entry.detail
    assert any("pool: could not be read" in note and "b.parquet" in note for note in result.warnings)


def test_a_damaged_row_group_takes_no_other_with_it(take, tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"messages": [list(chat(question, "1", images=0)) for question in "abcd"]})
    pq.write_table(table, path, row_group_size=2, compression="zstd", use_dictionary=False)
    facts = pq.ParquetFile(path).metadata.row_group(0)
    content = bytearray(path.read_bytes())
    for index in range(facts.num_columns):
        start, size = facts.column(index).data_page_offset, facts.column(index).total_compressed_size
        content[start : start + size] = bytes(size)
    path.write_bytes(content)
    result = take(pool=path)
    assert [sample.question for sample in result["pool"]] == ["c", "d"]
    (entry,) = result.quarantine
    assert entry.reason == "broken-file"
    assert "row group 0 of rows.parquet cannot be read" in entry.detail and "2 of its 2 rows" in entry.detail


@pytest.mark.parametrize("form", ["parquet", "gz"])
def test_what_would_grow_without_bound_is_not_unpacked(form, take, clean, tmp_path, monkeypatch):
    limits = {"parquet": "ost.formats.parquet_reader", "gz": "ost.formats.streams"}
    monkeypatch.setattr(importlib.import_module(limits[form]), "MOST_UNPACKED", 1 << 16)
    write_samples(tmp_path / "pool/a.parquet", clean["pool"][:1])
    if form == "parquet":
        bomb = pa.table({"messages": [list(chat("0" * (1 << 24), "1", images=0))]})
        pq.write_table(bomb, tmp_path / "pool/b.parquet", compression="zstd")
    else:
        (tmp_path / "pool/b.jsonl.zst").write_bytes(zstandard.compress(json.dumps(talk("0" * (1 << 24), "1")).encode()))
    result = take(pool=tmp_path / "pool")
    assert list(result["pool"]) == clean["pool"][:1]
    (entry,) = result.quarantine
    assert entry.reason == "broken-file" and entry.file.startswith("b.")
    assert "would grow from" in entry.detail or "unpack to far more" in entry.detail


def test_what_could_not_be_brought_here_is_counted_with_the_rest(take):
    result = take(refused={"pool": [Broken("x.parquet came with other bytes", "broken-file")]})
    assert result.counts["pool"] == {"read": 9, "kept": 8, "quarantined": 1, "reasons": {"broken-file": 1}}
    assert result.counts["anchors"]["quarantined"] == 0
    assert any("x.parquet came with other bytes" in note for note in result.warnings)


def test_a_row_that_is_not_utf8_takes_no_other_with_it(take, tmp_path):
    contents = pa.array([b"a", b"1", b"\xff", b"1", b"c", b"1"]).view(pa.string())  # Arrow does not look inside
    turns = pa.StructArray.from_arrays([pa.array(["user", "assistant"] * 3), contents], ["role", "content"])
    table = pa.table({"messages": pa.ListArray.from_arrays([0, 2, 4, 6], turns)})
    pq.write_table(table, tmp_path / "rows.parquet")
    result = take(pool=tmp_path / "rows.parquet")
    assert [sample.question for sample in result["pool"]] == ["a", "c"]
    assert [(entry.position, entry.reason) for entry in result.quarantine] == [(1, "malformed")]


# --- anything at all ------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(lines=st.lists(LINES, min_size=1, max_size=12))
def test_no_line_raises_and_none_is_lost(lines, clean_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    take = Intake(folder, clean_files, None)
    result = take(pool=write_jsonl(folder / "pool", [record("kept?"), *lines]), memory=folder / "memory")
    written = 1 + sum(1 for line in lines if line.strip())
    assert result.counts["pool"]["read"] == written, "a line was dropped without a reason"
    positions = [entry.position for entry in result.quarantine]
    assert positions == sorted(positions)
    assert result["pool"].table(["position"])["position"].to_pylist() == [
        position for position in range(written) if position not in positions
    ], "the kept ones keep the source's order"
    write_quarantine(folder / "quarantine.parquet", result.quarantine)
    assert "\n".join(result.warnings).encode()
    assert len(list(result["pool"])) == len(result["pool"])


def mutated(content: bytes, edits: list[tuple[int, bytes]], length: int) -> bytes:
    """The content with bytes overwritten at some places, then cut."""
    changed = bytearray(content)
    for place, new in edits:
        start = place % len(content)
        changed[start : start + len(new)] = new
    return bytes(changed[: len(content) - length % len(content)])


EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), max_size=6)


@settings(max_examples=80)
@given(
    form=st.sampled_from(["data_url", "parquet", "tar", "json", "gzip", "tar_gz"]),
    edits=EDITS,
    length=st.just(0) | st.integers(0, 2**12),
)
def test_a_mutated_file_never_raises_and_its_records_are_all_accounted_for(
    form, edits, length, clean, clean_files, tmp_path_factory
):
    """Beside a whole file, which must stay: a damaged one costs itself alone."""
    folder = tmp_path_factory.mktemp("mutated")
    write_samples(folder / "pool/a-whole.parquet", clean["pool"][:2])
    FORMS[form](folder / "pool/b", clean["pool"][2:])
    (victim,) = (file for file in (folder / "pool/b").iterdir() if file.is_file())
    victim.write_bytes(mutated(victim.read_bytes(), edits, length))
    result = Intake(folder, clean_files, None)(pool=folder / "pool")
    counts = result.counts["pool"]
    assert result["pool"][:2] == clean["pool"][:2]
    if form == "parquet":
        assert counts["read"] == 8 or "broken-file" in counts["reasons"]
    assert counts["read"] >= 8 or counts["quarantined"], "a loss was not told"
    write_quarantine(folder / "quarantine.parquet", result.quarantine)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map(lambda text: text.replace("<", "(") + ".")


@st.composite
def samples(draw) -> Sample:
    """A sample of any shape that all forms can hold."""
    images = tuple(encoded((16, 16), seed=seed) for seed in draw(st.lists(st.integers(0, 5), max_size=2)))
    turns = chat(draw(TEXT), draw(TEXT), images=len(images))
    for question, answer in draw(st.lists(st.tuples(TEXT, TEXT), max_size=2)):
        turns += chat(question, answer, images=0)
    system = ({"role": "system", "content": [{"type": "text", "text": draw(TEXT)}]},) if draw(st.booleans()) else ()
    return Sample(images, (*system, *turns), draw(TEXT))


@settings(max_examples=15)
@given(drawn=st.lists(samples(), min_size=1, max_size=5, unique_by=lambda sample: sample.id))
def test_the_same_samples_have_the_same_ids_in_every_form(drawn, clean_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    take = Intake(folder, clean_files, None)
    for name in ("json", "jsonl", "gzip", "parquet", "datasets", "tar"):
        result = take(pool=FORMS[name](folder / name, drawn), into=folder / f"{name}-taken")
        assert list(result["pool"]) == drawn, (name, result.quarantine)
