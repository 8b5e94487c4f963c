"""Files are streamed, cut by content, and never lost without a word; what an export takes is what the user wrote."""

import codecs
import gzip
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pools import write_tar

from ost.formats import Broken, Unit, arrow_reader, json_reader, load, open_source, parquet_reader, streams, tar_reader
from ost.formats import unit as unit_module

TURNS = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "7"}]


def chats(count: int, start: int = 0) -> list[dict]:
    return [{"id": number, "messages": TURNS} for number in range(start, start + count)]


def records(path: Path) -> list[tuple[int, dict | Broken]]:
    found = []
    for unit in open_source(path).units():
        found += load(pickle.loads(pickle.dumps(unit))).records
    return found


def read(path: Path) -> list[dict]:
    found = records(path)
    assert [position for position, _ in found] == list(range(len(found)))
    assert not [record for _, record in found if isinstance(record, Broken)]
    return [record for _, record in found]


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def folder():
    """One for all examples of a property: they overwrite their files."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# --- JSON -----------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(["]", ",", "[", '"', "\\", "\\u12", "\u2028", "😀"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=8)
WRITERS = [
    lambda rows: json.dumps(rows),
    lambda rows: json.dumps(rows, ensure_ascii=False, indent=1),
    lambda rows: "\ufeff\n [" + " ,\r\n\t".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n ",
]


@given(rows=RECORDS, write=st.sampled_from(WRITERS), chunk=st.integers(1, 40))
def test_an_array_gives_its_records_back_whatever_is_read_at_a_time(rows, write, chunk, folder):
    path = written(folder / "pool.json", write(rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "CHUNK", chunk)
        assert read(path) == rows


@given(rows=RECORDS, packed=st.sampled_from(["", ".gz", ".zst"]), gap=st.sampled_from(["", "\n", " \t\n"]))
def test_lines_give_their_records_back_and_blank_ones_are_none(rows, packed, gap, folder):
    text = gap.join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packed]
    assert read(written(folder / f"pool.jsonl{packed}", pack(text))) == rows


@given(rows=RECORDS, write=st.sampled_from([*WRITERS, None]), chosen=st.sets(st.integers(0, 9)))
def test_raw_records_are_the_users_own_bytes(rows, write, chosen, folder):
    spelled = [json.dumps(row, indent=None if write is None else 2) for row in rows]
    text = "\r\n\n".join(spelled) if write is None else f"[{' , '.join(spelled)}]"
    path = written(folder / ("pool.jsonl" if write is None else "pool.json"), text.encode())
    wanted = [(number, raw.encode()) for number, raw in enumerate(spelled) if number in chosen]
    assert list(json_reader.raw_records(path, chosen)) == wanted
    assert not rows or json_reader.is_array(path) is (write is not None)


@given(content=st.binary(max_size=60) | st.text('[]{}",: \n\\ab1', max_size=60).map(str.encode))
@example(content=b"[" * 5000)
@example(content=b'[{"a":' * 5000)
@example(content=b"[1e999, " + b"9" * 5000 + b", NaN, {}]")
@example(content=b"\xff\xfe[\x00]\x00")
@example(content=b'[{"a": "\xff"}, {"a": 1}]')
@example(content=b"[{},]")
@example(content=b"[] []")
def test_any_bytes_become_records_or_broken_places(content, folder):
    for name in ("pool.json", "pool.jsonl"):
        for position, record in records(written(folder / name, content)):
            assert isinstance(record, dict | Broken) and position >= 0


@settings(max_examples=60)
@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=5))
def test_lines_are_each_one_record_whatever_they_hold(lines, folder):
    path = written(folder / "lines.jsonl", b"\n".join([b'{"first": 1}', *lines]))
    assert len(records(path)) == 1 + sum(1 for line in lines if line.strip())


BROKEN_TEXT = {
    "cut in a record": ("x.json", b'[{"a": 1}, {"a": ', 1, "behind its first 1 record"),
    "cut behind a record": ("x.json", b'[{"a": 1}, {"a": 2}', 2, "found nothing"),
    "no comma": ("x.json", b'[{"a": 1} {"a": 2}]', 1, "expected a comma"),
    "a comma too many": ("x.json", b'[{"a": 1},]', 1, "Expecting value"),
    "more behind the end": ("x.json", b'[{"a": 1}] {"a": 2}', 1, "goes on behind"),
    "nested without end": ("x.json", b'[{"a": 1}, ' + b"[" * 100_000, 1, "too deep"),
    "UTF-16": ("x.json", codecs.BOM_UTF16_LE + '[{"a": 1}]'.encode("utf-16-le"), 0, "save it as UTF-8"),
    "a list under a key": ("x.json", b'{"version": 1,\n "data": [{"messages": []}]}', 0, "'version', 'data'"),
    "a cut gzip": ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999)[:-30], None, "cannot be read to its end"),
    "no gzip": ("x.jsonl.gz", b'{"a": 1}', 0, "cannot be read to its end"),
    "no zstd": ("x.json.zst", b'[{"a": 1}]', 0, "cannot be read to its end"),
}


@pytest.mark.parametrize("name", BROKEN_TEXT)
def test_what_ends_a_text_early_is_one_broken_place_behind_what_was_read(name, tmp_path):
    file, content, whole, detail = BROKEN_TEXT[name]
    *before, (position, last) = records(written(tmp_path / file, content))
    assert all(record == {"a": 1} or record == {"a": 2} for _, record in before)
    assert whole is None or len(before) == whole == position
    assert last.reason == "broken-file" and file in last.detail and detail in last.detail


def test_bytes_that_are_no_text_spoil_their_own_record_alone(tmp_path):
    content = b'[{"a": 1}, {"a": "\xff\xfe"}, {"a": 3}]'
    (_, one), (_, two), (_, three) = records(written(tmp_path / "x.json", content))
    assert (one, three) == ({"a": 1}, {"a": 3}) and two.reason == "malformed" and "utf-8" in two.detail
    assert list(json_reader.raw_records(tmp_path / "x.json", {1})) == [(1, b'{"a": "\xff\xfe"}')]


def test_one_record_over_many_lines_is_one_record(tmp_path):
    assert read(written(tmp_path / "000.json", json.dumps(chats(1)[0], indent=2).encode())) == chats(1)


def test_a_record_beyond_the_limit_is_refused_and_lines_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(json_reader, "MOST_RECORD", 1000)
    monkeypatch.setattr(json_reader, "CHUNK", 64)
    rows = [{"a": "x"}, {"a": "x" * 2000}, {"a": "y"}]
    path = written(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)).encode())
    (_, one), (_, two), (_, three) = records(path)
    assert (one, three) == (rows[0], rows[2]) and "longer than 1,000 bytes" in two.detail
    (_, one), (_, two) = records(written(tmp_path / "x.json", json.dumps(rows).encode()))
    assert one == rows[0] and two.reason == "broken-file" and "longer than 1,000" in two.detail


def test_a_decompression_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MOST_UNPACKED", 1 << 16)
    monkeypatch.setattr(streams, "MOST_UNPACKED_RATIO", 10)
    bomb = b'{"a": 1}\n' + b" " * (1 << 24)
    for name, pack in (("x.jsonl.gz", gzip.compress), ("x.jsonl.zst", zstandard.compress)):
        (*_, (_, last)) = records(written(tmp_path / name, pack(bomb)))
        assert last.reason == "broken-file" and "unpack" in last.detail


MEMORY = """
import sys
from ost.formats import load, open_source
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
source = open_source(sys.argv[1])
before = peak()
count = sum(1 for unit in source.units() for _, record in load(unit).records)
print(count, (peak() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux tells it")
def test_memory_does_not_grow_with_an_array(tmp_path):
    record = json.dumps({"messages": TURNS, "images": ["data:image/png;base64," + "A" * 100_000]})
    with (tmp_path / "pool.json").open("w") as file:
        file.write("[" + record)
        for _ in range(1, 2000):
            file.write(",\n" + record)
        file.write("]")
    run = [sys.executable, "-c", MEMORY, str(tmp_path / "pool.json")]
    count, grown = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert (tmp_path / "pool.json").stat().st_size > 200_000_000
    assert int(count) == 2000 and int(grown) < 100, "two units, of up to 32 MB, and the buffer"


# --- cutting --------------------------------------------------------------------------------------------------------


def digests(units: list[Unit]) -> list[str]:
    return [load(unit).digest for unit in units]


NUMBERED = st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True)


@given(numbers=NUMBERED, place=st.integers(0, 60), form=st.sampled_from(["json", "jsonl"]))
def test_what_is_added_changes_few_units(numbers, place, form, folder):
    def units(rows: list[int]) -> list[Unit]:
        text = [json.dumps({"n": row}) for row in rows]
        content = f"[{','.join(text)}]" if form == "json" else "\n".join(text)
        return list(open_source(written(folder / f"cut.{form}", content.encode())).units())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_module, "TYPICAL_RECORDS", 8)
        before = units(numbers)
        assert [row for unit in before for row in unit.payload] == [json.dumps({"n": row}).encode() for row in numbers]
        assert [unit.first for unit in before] == [
            sum(len(unit.payload) for unit in before[:n]) for n in range(len(before))
        ]
        old = digests(before)
        appended = digests(units([*numbers, -1]))
        assert appended[: len(old) - 1] == old[:-1] and len(appended) <= len(old) + 1
        inserted = digests(units([*numbers[:place], -1, *numbers[place:]]))
        assert (Counter(inserted) - Counter(old)).total() <= 2


def test_units_are_of_a_useful_size(tmp_path):
    path = written(tmp_path / "x.jsonl", "\n".join(map(json.dumps, chats(20_000))).encode())
    sizes = [len(unit.payload) for unit in open_source(path).units()]
    assert 150 < sum(sizes) / len(sizes) < 350 and max(sizes) <= 1024
    heavy = ({"id": number, "image": "A" * 1_000_000} for number in range(100))
    path = written(tmp_path / "y.jsonl", "\n".join(map(json.dumps, heavy)).encode())
    sizes = [unit.size for unit in open_source(path).units()]
    assert max(sizes) <= 1 << 25 and sum(sizes) / len(sizes) > 1 << 21


def test_a_digest_is_of_the_content_alone(tmp_path):
    one = written(tmp_path / "a/x.jsonl", b'{"a": 1}\n{"a": 2}')
    two = written(tmp_path / "b/y.json", b'[{"a": 1},{"a": 2}]')
    three = written(tmp_path / "c/x.jsonl", b'{"a": 1}\n{"a": 3}')
    same, too, other = (digests(list(open_source(path).units())) for path in (one, two, three))
    assert same == too != other


# --- tables ---------------------------------------------------------------------------------------------------------


def table_file(path: Path, rows: list[dict], **options) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_a_unit_is_a_row_group_and_what_is_not_needed_is_not_loaded(tmp_path):
    rows = [row | {"embedding": [1.0], "blank": None, "tag": "t"} for row in chats(10)]
    path = table_file(tmp_path / "x.parquet", rows, row_group_size=4)
    units = list(open_source(path).units())
    assert [(unit.first, unit.payload) for unit in units] == [(0, 0), (4, 1), (8, 2)]
    first = next(load(units[0]).records)[1]
    assert first["embedding"] == first["tag"] == "(not loaded)" and "blank" not in first
    assert next(load(units[0], {"task": "tag"}).records)[1]["tag"] == "t"


def test_a_row_group_is_known_by_its_content(tmp_path):
    one = table_file(tmp_path / "a.parquet", chats(8), row_group_size=4)
    longer = table_file(tmp_path / "b.parquet", chats(10), row_group_size=4)
    other = table_file(tmp_path / "c.parquet", chats(8, start=1), row_group_size=4)
    one, longer, other = (digests(list(open_source(path).units())) for path in (one, longer, other))
    assert longer[:2] == one and not set(other) & set(one)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_raw_rows_keep_every_column_and_the_schema(form, tmp_path):
    rows = [row | {"embedding": [0.5], "content": number} for number, row in enumerate(chats(300))]
    dataset = datasets.Dataset.from_list(rows)
    if form == "parquet":
        path, module = tmp_path / "x.parquet", parquet_reader
        dataset.to_parquet(path, batch_size=100)
    else:
        dataset.save_to_disk(tmp_path / "x")
        path, module = next((tmp_path / "x").glob("*.arrow")), arrow_reader
    chosen = {0, 99, 100, 250, 400}
    table = pa.concat_tables(module.raw_rows(path, chosen))
    assert table.to_pylist() == [rows[number] for number in sorted(chosen) if number < 300]
    assert table.schema.equals(module.schema(path), check_metadata=True)
    assert b"huggingface" in table.schema.metadata
    assert list(module.raw_rows(path, set())) == []


def test_a_table_without_turns_names_its_columns(tmp_path):
    path = table_file(tmp_path / "x.parquet", [{"question": "?", "answer": "7"}])
    ((_, broken),) = records(path)
    assert broken.reason == "broken-file" and "x.parquet" in broken.detail and "question, answer" in broken.detail
    (unit,) = open_source(path).units()
    assert list(load(unit, {"query": "question", "response": "answer"}).records) == [
        (0, {"question": "?", "answer": "7"})
    ]


def test_a_file_that_is_cut_is_one_broken_place(tmp_path):
    path = table_file(tmp_path / "x.parquet", chats(10))
    path.write_bytes(path.read_bytes()[:-20])
    ((position, broken),) = records(path)
    assert position == 0 and broken.reason == "broken-file" and "x.parquet cannot be read" in broken.detail


def test_a_damaged_row_group_takes_no_other_with_it(tmp_path):
    path = table_file(tmp_path / "x.parquet", chats(4), row_group_size=2, compression="zstd", use_dictionary=False)
    facts = pq.ParquetFile(path).metadata.row_group(0)
    content = bytearray(path.read_bytes())
    for index in range(facts.num_columns):
        start = facts.column(index).data_page_offset
        content[start : start + facts.column(index).total_compressed_size] = bytes(
            facts.column(index).total_compressed_size
        )
    path.write_bytes(content)
    (first, broken), *others = records(path)
    assert first == 0 and "row group 0 of x.parquet" in broken.detail and "2 of its 2 rows" in broken.detail
    assert [(position, record["id"]) for position, record in others] == [(2, 2), (3, 3)]


def test_a_row_group_that_would_grow_without_bound_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_reader, "MOST_UNPACKED", 1 << 16)
    rows = [{"query": "0" * (1 << 24), "response": "1"}]
    path = table_file(tmp_path / "x.parquet", rows, compression="zstd")
    ((_, broken),) = records(path)
    assert broken.reason == "broken-file" and "row group 0 of x.parquet would grow from" in broken.detail


def test_a_row_that_is_no_text_takes_no_other_with_it(tmp_path):
    contents = pa.array([b"a", b"1", b"\xff", b"1", b"c", b"1"]).view(pa.string())  # Arrow does not look inside
    turns = pa.StructArray.from_arrays([pa.array(["user", "assistant"] * 3), contents], ["role", "content"])
    pq.write_table(pa.table({"messages": pa.ListArray.from_arrays([0, 2, 4, 6], turns)}), tmp_path / "x.parquet")
    (_, one), (position, two), (_, three) = records(tmp_path / "x.parquet")
    assert (one["messages"][0]["content"], three["messages"][0]["content"]) == ("a", "c")
    assert position == 1 and two.reason == "malformed"


def test_large_batches_of_a_saved_dataset_are_units_by_bytes(tmp_path, monkeypatch):
    rows = [row | {"image": {"bytes": os.urandom(1000), "path": None}} for row in chats(500)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "pool")
    monkeypatch.setattr(arrow_reader, "MOST_BYTES", 50_000)
    units = list(open_source(tmp_path / "pool").units())
    assert len(units) > 8
    assert [record["id"] for unit in units for _, record in load(unit).records] == list(range(500))
    assert [unit.first for unit in units] == [next(load(unit).records)[0] for unit in units]
    assert len(set(digests(units))) == len(units)


def test_a_cut_arrow_file_is_read_up_to_there(tmp_path):
    datasets.Dataset.from_list(chats(2500)).save_to_disk(tmp_path / "pool")
    path = next((tmp_path / "pool").glob("*.arrow"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    *whole, (position, broken) = records(tmp_path / "pool")
    assert len(whole) == position in (1000, 2000) and broken.reason == "broken-file"


# --- tars -----------------------------------------------------------------------------------------------------------


def tar_file(path: Path, samples: int, start: int = 0) -> Path:
    with tarfile.open(path, "w") as archive:
        for number in range(start, start + samples):
            for extension, content in (
                ("jpg", b"jpeg %d" % number),
                ("json", json.dumps({"messages": TURNS}).encode()),
            ):
                info = tarfile.TarInfo(f"{number:06}.{extension}")
                info.size = len(content)
                archive.addfile(info, _Content(content))
    return path


class _Content:
    def __init__(self, content: bytes):
        self._content = content

    def read(self, size: int) -> bytes:
        taken, self._content = self._content[:size], self._content[size:]
        return taken


def test_an_appended_sample_of_a_tar_changes_the_last_unit_alone(tmp_path):
    before = digests(list(open_source(tar_file(tmp_path / "a.tar", 700)).units()))
    after = digests(list(open_source(tar_file(tmp_path / "b.tar", 701)).units()))
    assert len(before) > 1 and after[: len(before) - 1] == before[:-1] and len(after) <= len(before) + 1


def test_raw_members_of_a_tar(tmp_path):
    path = tar_file(tmp_path / "a.tar", 5)
    found = dict(tar_reader.raw_members(path, {1, 3, 9}))
    assert sorted(found) == [1, 3]
    assert found[3] == [("000003.jpg", b"jpeg 3"), ("000003.json", json.dumps({"messages": TURNS}).encode())]


@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_tar_loses_what_was_cut(packed, tmp_path):
    content = tar_file(tmp_path / "a.tar", 6).read_bytes()[: 1024 * 7 + 100]
    path = written(tmp_path / ("b.tar.zst" if packed else "b.tar"), zstandard.compress(content) if packed else content)
    *whole, (position, broken) = records(path)
    assert len(whole) == position == 3 and broken.reason == "broken-file" and path.name in broken.detail


def test_a_damaged_header_in_a_tar_is_told(tmp_path):
    """`tarfile` takes one for the tar's end."""
    content = bytearray(tar_file(tmp_path / "a.tar", 6).read_bytes())
    content[4096:4200] = b"\x01" * 104
    *whole, (position, broken) = records(written(tmp_path / "b.tar", bytes(content)))
    assert len(whole) == position == 1 and broken.reason == "broken-file", "the sample before it may lack a member"


# --- damage of any kind ---------------------------------------------------------------------------------------------


def mutated(content: bytes, edits: list[tuple[int, bytes]], length: int) -> bytes:
    """The content with bytes overwritten at some places, then cut."""
    changed = bytearray(content)
    for place, new in edits:
        start = place % len(content)
        changed[start : start + len(new)] = new
    return bytes(changed[: len(content) - length % len(content)])


EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), max_size=6)
VICTIMS = ["a.jsonl", "a.json", "a.json.gz", "a.jsonl.zst", "a.parquet", "a.tar", "a.tar.gz"]


@pytest.fixture(scope="module")
def victims(folder) -> dict[str, bytes]:
    rows = chats(20)
    array, lines = json.dumps(rows).encode(), "\n".join(map(json.dumps, rows)).encode()
    whole = {
        "a.jsonl": lines,
        "a.json": array,
        "a.json.gz": gzip.compress(array),
        "a.jsonl.zst": zstandard.compress(lines),
        "a.parquet": table_file(folder / "whole.parquet", rows, row_group_size=5).read_bytes(),
        "a.tar": tar_file(folder / "whole.tar", 20).read_bytes(),
    }
    return whole | {"a.tar.gz": gzip.compress(whole["a.tar"])}


@settings(max_examples=300)
@given(name=st.sampled_from(VICTIMS), edits=EDITS, length=st.just(0) | st.integers(0, 2**12))
def test_a_mutated_file_never_raises(name, edits, length, victims, folder):
    path = written(folder / "mutated" / name, mutated(victims[name], edits, length))
    for position, record in records(path):
        assert isinstance(record, dict | Broken) and position >= 0
    path.unlink()


def test_a_member_larger_than_any_record_may_be_is_not_read(tmp_path, monkeypatch):
    """Whatever its header promises, and whether or not so much follows."""
    monkeypatch.setattr(tar_reader, "MOST_RECORD", 1000)
    for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("0.json")
        info.size, info.type = 4000, kind
        content = info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048
        for name, pack in (("a.tar", bytes), ("a.tar.gz", gzip.compress)):
            (*_, (_, last)) = records(written(tmp_path / name, pack(content)))
            assert isinstance(last, Broken)
    cut = zlib.compress(b"x") + struct.pack("<I", 0)
    assert isinstance(records(written(tmp_path / "b.tar.gz", cut))[-1][1], Broken)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_the_members_of_a_sample_are_bounded_together(name, tmp_path, monkeypatch):
    """Each is as large as one may be; together they would be read into memory without bound."""
    monkeypatch.setattr(tar_reader, "MOST_RECORD", 1000)
    large = [(f"big.{number}.png", b"x" * 400) for number in range(50)]
    small = [("small.json", json.dumps({"messages": []}).encode())]
    (_, first), (_, second) = records(write_tar(tmp_path / name, [*large, *small]))
    assert "have more than 1,000 bytes together" in first.detail and second["messages"] == []
    (unit, *_) = list(open_source(tmp_path / name).units())
    assert sum(len(member.content or b"") for group in unit.payload for member in group.members) < 1500


def test_the_members_of_a_sample_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_reader, "MOST_MEMBERS", 10)
    (_, found), (_, small) = records(
        write_tar(tmp_path / "a.tar", [*((f"big.{number}.png", b"") for number in range(50)), ("small.json", b"{}")])
    )
    assert "has more than 10 members" in found.detail and isinstance(small, dict)


@pytest.fixture
def most_read(monkeypatch) -> list[int]:
    """Bytes of the values in each batch that is read of a Parquet file."""
    found, real = [], parquet_reader._batches

    def batches(*args, **options):
        for batch in real(*args, **options):
            found.append(sum(len(value or "") for value in batch.column(0).to_pylist()))
            yield batch

    monkeypatch.setattr(parquet_reader, "_batches", batches)
    return found


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
def test_a_value_that_stands_in_every_row_is_not_unpacked_for_many_at_a_time(codec, tmp_path, monkeypatch, most_read):
    """It is stored once, in the column's dictionary, so that the row group is small."""
    monkeypatch.setattr(parquet_reader, "MOST_RECORD", 100_000)
    table = pa.table({"query": ["q" * 40_000] * 60, "response": ["a"] * 60})
    pq.write_table(table, tmp_path / "a.parquet", compression=codec)
    assert [record for _, record in records(tmp_path / "a.parquet")] == table.to_pylist()
    assert max(most_read) <= 100_000


def test_a_dictionary_and_rows_larger_than_any_record_are_not_read(tmp_path, monkeypatch, most_read):
    monkeypatch.setattr(parquet_reader, "MOST_RECORD", 10_000)
    values = {"dictionary": "q" * 40_000, "rows": None}
    for name, value in values.items():
        texts = [value or f"{number}" * 40_000 for number in range(9)]
        table = pa.table({"query": texts, "response": ["a"] * 9})
        pq.write_table(table, tmp_path / f"{name}.parquet", use_dictionary=value is not None)
        ((_, found),) = records(tmp_path / f"{name}.parquet")
        assert isinstance(found, Broken) and "more than 10,000" in found.detail and not most_read


def test_an_ordinary_table_is_read_as_many_rows_at_a_time_as_before(tmp_path, most_read):
    table = pa.table({"query": [f"{number} " * 1000 for number in range(256)], "response": ["a"] * 256})
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(records(tmp_path / "a.parquet")) == 256 and len(most_read) == 4


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_batch_that_packs_too_well_is_not_unpacked(codec, tmp_path, monkeypatch):
    """Arrow would unpack all of its buffers at once."""
    table = pa.table({"query": ["q" * 5000, None] * 30, "response": ["a"] * 60})
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    assert [record["response"] for _, record in records(tmp_path / "a.arrow")] == ["a"] * 60
    monkeypatch.setattr(arrow_reader, "MOST_UNPACKED", 100_000)
    monkeypatch.setattr(arrow_reader, "MOST_UNPACKED_RATIO", 2)
    real = pa.ipc.read_record_batch
    monkeypatch.setattr(pa.ipc, "read_record_batch", lambda *args: pytest.fail("it was unpacked"))
    ((_, found),) = records(tmp_path / "a.arrow")
    assert isinstance(found, Broken) and "a batch would grow from" in found.detail
    monkeypatch.setattr(pa.ipc, "read_record_batch", real)
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    assert len(records(tmp_path / "b.arrow")) == 60, "what is not packed lies in the file, as large as it is"


def test_folders_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    listed = os.scandir

    def scandir(place):
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    (tmp_path / "closed").mkdir()
    (tmp_path / "pool.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    source = open_source(tmp_path)
    assert [file.name for file in source.files] == ["pool.jsonl"]
    assert source.unread == ("closed/ (Permission denied)",)
