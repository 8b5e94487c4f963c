"""The user's own records back: byte for byte, in their files' form and names, and only if they are still the same."""

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from export_pools import image, ingested, keeping

from ost.errors import DataError
from ost.export import export, verify

RECORDS = [
    b'{"id": 17, "image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, '
    b'{"from": "gpt", "value": "a \\u00fcber [cat], {x}"}]}',
    b'{"id":"t","conversations":[{"from":"human","value":"1.0 or 1?"},{"from":"gpt","value":"7"}],"n":1.0e0}',
    '{ "conversations" : [ {"from":"human","value":"žluť <image> and <image>"} , {"from":"gpt","value":"ok"} ],  '
    '"image": ["a.png", "sub/b.png"], "extra": {"b":1,"a":[ ]} }'.encode(),
    b'{"id": 18, "image": "c.png", "conversations": [{"from": "human", "value": "\\n<image>\\nWhich?"}, '
    b'{"from": "gpt", "value": "c"}, {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": " yes"}]}',
]
KEPT = [3, 0, 2]
"""Places, the best first."""
SAVED = [RECORDS[0], RECORDS[2], RECORDS[3]]
"""What is kept, in the files' order."""


def images_in(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "sub/b.png", "c.png")):
        (folder / name).write_bytes(image(seed))


def spread(separator: str = "\r\n") -> bytes:
    """An array, as an editor might lay it out."""
    return ("[" + separator + "  ,  ".join(record.decode() for record in RECORDS) + "\n ] \n").encode()


def unzstd(content: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()


CONTAINERS = {
    "pool.json": (spread(), lambda got: got),
    "pool.jsonl": (b"\xef\xbb\xbf" + b"\r\n\r\n".join(RECORDS), lambda got: got),
    "pool.jsonl.gz": (gzip.compress(b"\n".join(RECORDS)), gzip.decompress),
    "pool.json.zst": (zstandard.compress(spread("\n")), unzstd),
    "array.jsonl": (spread(), lambda got: got),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_json_comes_back_byte_for_byte_in_its_own_container(name, tmp_path):
    content, unpack = CONTAINERS[name]
    images_in(tmp_path / "in")
    (tmp_path / "in" / name).write_bytes(content)
    pool = ingested(tmp_path / "in" / name, tmp_path / "pool")
    told = export(keeping(pool, KEPT), pool, "same", tmp_path / "out", source=tmp_path / "in" / name)
    got = unpack((tmp_path / "out" / name).read_bytes())
    array = name != "pool.jsonl" and "jsonl.gz" not in name
    assert got == (b"[\n" + b",\n".join(SAVED) + b"\n]\n" if array else b"".join(one + b"\n" for one in SAVED))
    assert json.loads(got) if array else got
    again = ingested(tmp_path / "out" / name, tmp_path / "again")
    assert again.ids() == [pool.ids()[at] for at in sorted(KEPT)] and told.samples == 3
    assert again.table(["own_id"])["own_id"].to_pylist() == ["17", None, "18"]


def test_the_same_records_are_the_same_file(tmp_path):
    images_in(tmp_path / "in")
    (tmp_path / "in" / "pool.jsonl.gz").write_bytes(gzip.compress(b"\n".join(RECORDS)))
    pool = ingested(tmp_path / "in", tmp_path / "pool")
    for out in ("one", "two"):
        export(keeping(pool, KEPT), pool, "same", tmp_path / out, source=tmp_path / "in")
    first, second = ((tmp_path / out / "pool.jsonl.gz").read_bytes() for out in ("one", "two"))
    assert first == second


class TestImages:
    def folder(self, tmp_path) -> Path:
        """Two weeks with images of their own under one name, and one that both find in the root."""
        for seed, week in enumerate(("week1", "week2")):
            (tmp_path / "in" / week).mkdir(parents=True)
            (tmp_path / "in" / week / "a.png").write_bytes(image(seed))
            rows = [self.row("a.png"), self.row("shared/s.png"), self.row("never.png")]
            (tmp_path / "in" / week / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))
            (tmp_path / "in" / week / "never.png").write_bytes(image(seed + 10))
        (tmp_path / "in" / "shared").mkdir()
        (tmp_path / "in" / "shared" / "s.png").write_bytes(image(5))
        return tmp_path / "in"

    def row(self, name: str) -> str:
        turns = [{"role": "user", "content": f"What is {name}?"}, {"role": "assistant", "content": "it"}]
        return json.dumps({"messages": turns, "images": [name]})

    def test_those_that_are_kept_are_copied_to_the_same_places(self, tmp_path):
        source = self.folder(tmp_path)
        pool = ingested(source, tmp_path / "pool")
        told = export(keeping(pool, [0, 1, 3, 4]), pool, "same", tmp_path / "out", source=source)
        copied = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.png")}
        assert copied == {"week1/a.png", "week2/a.png", "shared/s.png"} and not told.notes
        assert ingested(tmp_path / "out", tmp_path / "again").ids() == [pool.ids()[at] for at in (0, 1, 3, 4)]

    def test_they_can_be_left_and_it_is_told_where(self, tmp_path):
        source = self.folder(tmp_path)
        pool = ingested(source, tmp_path / "pool")
        told = export(keeping(pool, [0]), pool, "same", tmp_path / "out", source=source, images="leave")
        assert not list((tmp_path / "out").rglob("*.png"))
        assert told.notes == [
            f"image paths start from {source}, where the images are left: give that as the image folder"
        ]

    def test_those_of_other_roots_and_behind_links_are_found_by_the_same_path(self, tmp_path):
        source, other = tmp_path / "in", tmp_path / "other"
        source.mkdir()
        (other / "deep").mkdir(parents=True)
        (other / "deep" / "o.png").write_bytes(image(1))
        (other / "blob").write_bytes(image(2))
        (source / "l.png").symlink_to(other / "blob")
        absolute = str(other / "deep" / "o.png")
        rows = [self.row("deep/o.png"), self.row("l.png"), self.row(absolute), self.row("../other/deep/o.png")]
        (source / "rows.jsonl").write_text("\n".join(rows))
        pool = ingested(source, tmp_path / "pool", roots=[other])
        told = export(keeping(pool), pool, "same", tmp_path / "out", source=source, image_roots=[other])
        assert (tmp_path / "out" / "deep" / "o.png").read_bytes() == image(1)
        assert (tmp_path / "out" / "l.png").read_bytes() == image(2) and not (tmp_path / "out" / "l.png").is_symlink()
        (note,) = told.notes
        assert note.startswith("2 images have no place in the folder") and "../other/deep/o.png" in note
        assert not (tmp_path / "other" / "deep" / "o.png").is_symlink() and len(list(other.rglob("*.png"))) == 1

    def test_those_inside_of_records_need_no_copy(self, tmp_path):
        (tmp_path / "in").mkdir()
        url = f"data:image/png;base64,{base64.b64encode(image(1)).decode()}"
        (tmp_path / "in" / "rows.jsonl").write_text(self.row(url))
        pool = ingested(tmp_path / "in", tmp_path / "pool")
        export(keeping(pool), pool, "same", tmp_path / "out", source=tmp_path / "in")
        assert [file.name for file in (tmp_path / "out").iterdir() if file.is_file()] == ["rows.jsonl"]


def parquet_rows(count: int) -> datasets.Dataset:
    rows = [
        {
            "id": at,
            "images": [{"bytes": image(at), "path": f"{at}.png"}],
            "texts": [{"user": f"What is {at}?", "assistant": str(at), "source": "x"}],
            "odd": [at, None],
        }
        for at in range(count)
    ]
    features = datasets.Features(
        {
            "id": datasets.Value("int16"),
            "images": datasets.List(datasets.Image()),
            "texts": datasets.List({name: datasets.Value("string") for name in ("user", "assistant", "source")}),
            "odd": datasets.List(datasets.Value("uint8")),
        }
    )
    return datasets.Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_parquet_keeps_schema_metadata_codec_and_rows(codec, tmp_path):
    (tmp_path / "in").mkdir()
    table = parquet_rows(9).data.table
    table = table.replace_schema_metadata((table.schema.metadata or {}) | {b"licence": b"mine"})
    pq.write_table(table, tmp_path / "in" / "p.parquet", row_group_size=2, compression=codec)
    pool = ingested(tmp_path / "in" / "p.parquet", tmp_path / "pool")
    export(keeping(pool, [8, 0, 1, 5]), pool, "same", tmp_path / "out", source=tmp_path / "in" / "p.parquet")
    got = pq.read_table(tmp_path / "out" / "p.parquet")
    assert got.schema.equals(pq.read_schema(tmp_path / "in" / "p.parquet"), check_metadata=True)
    assert got.equals(pq.read_table(tmp_path / "in" / "p.parquet").take([0, 1, 5, 8]))
    facts = pq.read_metadata(tmp_path / "out" / "p.parquet").row_group(0).column(0)
    assert facts.compression == {"none": "UNCOMPRESSED"}.get(codec, codec.upper())


def test_a_saved_dataset_is_saved_again(tmp_path):
    parquet_rows(9).save_to_disk(str(tmp_path / "in"), num_shards=3)
    pool = ingested(tmp_path / "in", tmp_path / "pool")
    export(keeping(pool, [8, 0, 4, 5]), pool, "same", tmp_path / "out", source=tmp_path / "in")
    got, whole = (datasets.load_from_disk(str(tmp_path / name)) for name in ("out", "in"))
    assert got.features == whole.features and got["id"] == [0, 4, 5, 8]
    assert ingested(tmp_path / "out", tmp_path / "again").ids() == [pool.ids()[at] for at in (0, 4, 5, 8)]


def test_what_datasets_keeps_of_the_hub_is_saved_as_one_table(tmp_path):
    parquet_rows(5).to_parquet(tmp_path / "p.parquet")
    cached = datasets.load_dataset("parquet", data_files=str(tmp_path / "p.parquet"), cache_dir=str(tmp_path / "cache"))
    source = Path(cached["train"].cache_files[0]["filename"]).parent
    pool = ingested(source, tmp_path / "pool")
    export(keeping(pool, [4, 1]), pool, "same", tmp_path / "out", source=source)
    assert datasets.load_from_disk(str(tmp_path / "out"))["id"] == [1, 4]


@pytest.mark.parametrize("name", ["dataset.json", "meta.json"])
def test_one_record_over_many_lines_comes_back_whatever_its_files_name(name, tmp_path):
    images_in(tmp_path / "in")
    pretty = json.dumps(json.loads(RECORDS[1]), indent=2).encode()
    (tmp_path / "in" / name).write_bytes(pretty)
    pool = ingested(tmp_path / "in" / name, tmp_path / "pool")
    export(keeping(pool), pool, "same", tmp_path / "out", source=tmp_path / "in" / name)
    assert (tmp_path / "out" / name).read_bytes().strip() == pretty
    assert verify(tmp_path / "out") == []


def test_an_arrow_file_stays_one(tmp_path):
    (tmp_path / "in").mkdir()
    table = parquet_rows(5).data.table
    with pa.ipc.new_stream(tmp_path / "in" / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    pool = ingested(tmp_path / "in", tmp_path / "pool")
    export(keeping(pool, [4, 1]), pool, "same", tmp_path / "out", source=tmp_path / "in")
    got = pa.ipc.open_stream((tmp_path / "out" / "a.arrow").read_bytes()).read_all()
    assert got.schema.equals(table.schema, check_metadata=True) and got.to_pylist() == table.take([1, 4]).to_pylist()


PACKED = {
    "tar": (lambda content: content, lambda content: content),
    "gz": (gzip.compress, gzip.decompress),
    "tgz": (gzip.compress, gzip.decompress),
    "zst": (zstandard.compress, unzstd),
}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"])
def test_tars_keep_their_members(name, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    members = []
    for at in range(5):
        told = {"conversations": [{"from": "human", "value": f"{at}?"}, {"from": "gpt", "value": "yes"}]}
        key = f"long/{'x' * 120}/{at}"
        members.append([(f"{key}.png", image(at)), (f"{key}.json", json.dumps(told).encode()), (f"{key}.cls", b"3")])
    pack, unpack = PACKED[name.rpartition(".")[2]]
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as tar:
        for member, content in (one for sample in members for one in sample):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "in" / "deep" / name).write_bytes(pack(buffer.getvalue()))
    pool = ingested(tmp_path / "in", tmp_path / "pool")
    export(keeping(pool, [4, 0]), pool, "same", tmp_path / "out", source=tmp_path / "in")
    with tarfile.open(fileobj=io.BytesIO(unpack((tmp_path / "out" / "deep" / name).read_bytes()))) as tar:
        got = [(info.name, tar.extractfile(info).read()) for info in tar]
    assert got == [*members[0], *members[4]]


def test_a_folder_of_several_forms_keeps_its_names_and_no_empty_file(tmp_path):
    images_in(tmp_path / "in")
    (tmp_path / "in" / "one.jsonl").write_bytes(b"\n".join(RECORDS[:2]))
    (tmp_path / "in" / "sub" / "two.json").write_bytes(b"[" + RECORDS[1].replace(b"1.0 or", b"2.0 or") + b"]")
    parquet_rows(2).to_parquet(tmp_path / "in" / "three.parquet")
    pool = ingested(tmp_path / "in", tmp_path / "pool")
    files = pool.table(["file"])["file"].to_pylist()
    assert files == ["one.jsonl", "one.jsonl", "sub/two.json", "three.parquet", "three.parquet"]
    export(keeping(pool, [2, 4]), pool, "same", tmp_path / "out", source=tmp_path / "in")
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith(".")} == {"sub/two.json", "three.parquet"}


def test_columns_and_what_is_learned_are_as_they_were_ingested(tmp_path):
    (tmp_path / "in").mkdir()
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    (tmp_path / "in" / "rows.jsonl").write_text(json.dumps({"dialogue": turns}))
    settings = {"columns": {"messages": "dialogue"}, "train_on": "last"}
    pool = ingested(tmp_path / "in", tmp_path / "pool", **settings)
    assert pool[0].learned == (3,)
    export(keeping(pool), pool, "same", tmp_path / "out", source=tmp_path / "in", **settings)
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == (tmp_path / "in" / "rows.jsonl").read_bytes() + b"\n"


class TestChanged:
    """What is not as it was ingested is never passed on as the subset."""

    def pool(self, tmp_path):
        images_in(tmp_path / "in")
        (tmp_path / "in" / "pool.jsonl").write_bytes(b"\n".join(RECORDS))
        return ingested(tmp_path / "in", tmp_path / "pool")

    def refused(self, pool, tmp_path, why):
        with pytest.raises(DataError, match=why):
            export(keeping(pool, KEPT), pool, "same", tmp_path / "out", source=tmp_path / "in")
        assert not list(tmp_path.glob("out*"))

    def test_a_text(self, tmp_path):
        pool = self.pool(tmp_path)
        (tmp_path / "in" / "pool.jsonl").write_bytes(b"\n".join(RECORDS).replace(b'"value": "c"', b'"value": "d"'))
        self.refused(pool, tmp_path, "record 3 of pool.jsonl is not the one that was ingested: its text or an image")

    def test_a_line_in_front(self, tmp_path):
        pool = self.pool(tmp_path)
        (tmp_path / "in" / "pool.jsonl").write_bytes(b"\n".join([RECORDS[1], *RECORDS]))
        self.refused(pool, tmp_path, "record 0 of pool.jsonl is not the one")

    def test_an_image(self, tmp_path):
        pool = self.pool(tmp_path)
        (tmp_path / "in" / "a.png").write_bytes(image(99))
        self.refused(pool, tmp_path, "record 0 of pool.jsonl is not the one")

    def test_an_image_that_is_gone(self, tmp_path):
        pool = self.pool(tmp_path)
        (tmp_path / "in" / "c.png").unlink()
        self.refused(pool, tmp_path, "record 3 of pool.jsonl is not the one that was ingested: missing-image")

    def test_samples_of_a_tar_that_would_become_one(self, tmp_path):
        """Two samples of one key are told apart by what stands between them, until that is left out."""
        (tmp_path / "in").mkdir()
        with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
            for at, key in enumerate("aba"):
                turns = [{"from": "human", "value": f"{at}?"}, {"from": "gpt", "value": "yes"}]
                told = json.dumps({"conversations": turns}).encode()
                info = tarfile.TarInfo(f"{key}.json")
                info.size = len(told)
                tar.addfile(info, io.BytesIO(told))
        pool = ingested(tmp_path / "in", tmp_path / "pool")
        with pytest.raises(DataError, match=r"record 0 of a\.tar is not the one that was ingested: malformed"):
            export(keeping(pool, [0, 2]), pool, "same", tmp_path / "out", source=tmp_path / "in")

    def test_a_file_that_is_shorter(self, tmp_path):
        pool = self.pool(tmp_path)
        (tmp_path / "in" / "pool.jsonl").write_bytes(RECORDS[0])
        self.refused(pool, tmp_path, "pool.jsonl has 1 of the 3 kept records")

    def test_a_file_that_is_gone(self, tmp_path):
        pool = self.pool(tmp_path)
        (tmp_path / "in" / "pool.jsonl").rename(tmp_path / "in" / "other.jsonl")
        self.refused(pool, tmp_path, "has no pool.jsonl, which the pool was read from")


@pytest.mark.parametrize("out", ["in/out", "in", "."])
def test_nothing_is_written_into_the_source_or_around_it(out, tmp_path):
    images_in(tmp_path / "in")
    (tmp_path / "in" / "pool.jsonl").write_bytes(b"\n".join(RECORDS))
    pool = ingested(tmp_path / "in", tmp_path / "pool")
    with pytest.raises(DataError, match="lie in one another"):
        export(keeping(pool), pool, "same", tmp_path / out, source=tmp_path / "in", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.png", "c.png", "pool.jsonl", "sub"]
