"""What a trainer's loader would lose is found before it does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from export_pools import conversations, image, ingested, keeping, pool_of

from ost.data import Sample, chat
from ost.errors import ConfigError, DataError
from ost.export import FORMS, export, verify
from ost.export.forms import forms

LONG = [10, 20, 3000, 40, 1000, 60, 70]


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Path:
    """An export of every trainer's form, and `ids`."""
    base = tmp_path_factory.mktemp("exports")
    pool = pool_of(base / "pool", conversations(), LONG)
    for form in FORMS[1:]:
        export(keeping(pool), pool, form, base / form)
    return base


@pytest.fixture
def copy(exports, tmp_path) -> Callable[[str], Path]:
    """An export that may be damaged."""
    return lambda form: Path(shutil.copytree(exports / form, tmp_path / form))


def edit(folder: Path, change: Callable[[list[dict]], None]) -> None:
    """Change the records of an export of JSON lines."""
    rows = [json.loads(line) for line in (folder / "data.jsonl").open()]
    change(rows)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", FORMS[1:])
def test_nothing_is_found_where_the_limits_are_those_of_the_sidecar(form, exports):
    limits = {limit.option: None for limit in forms()[form].limits}
    assert verify(exports / form, limits) == []


@pytest.mark.parametrize(
    ("form", "option", "over", "remedy"),
    [
        ("trl", "max_length of 1,024", 1, "set max_length to null"),
        ("llamafactory", "cutoff_len of 2,048", 1, "set cutoff_len to 3328"),
        ("qwen", "model_max_length of 512", 2, "set model_max_length to 3328"),
        ("internvl", "max_seq_length of 2,048", 1, "set max_seq_length to 3328"),
    ],
)
def test_samples_that_are_too_long_for_the_trainers_default(form, option, over, remedy, exports):
    (found,) = verify(exports / form)
    assert option in found.what and "most: 3,000" in found.what
    assert found.count == over and found.remedy.startswith(remedy) and len(found.examples) == over


def test_limits_are_given_in_the_trainers_own_words(exports):
    assert verify(exports / "ms-swift") == []
    (found,) = verify(exports / "ms-swift", {"max_length": 2000})
    assert "another sample is drawn" in found.what and found.count == 1
    # TRL counts as we do, others by templates of their own.
    assert verify(exports / "trl", {"max_length": 3000}) == []
    assert len(verify(exports / "ms-swift", {"max_length": 3000})) == 1
    assert verify(exports / "ms-swift", {"max_length": 3256}) == []
    with pytest.raises(
        ConfigError, match=r"llamafactory has no option max_length .*; it has cutoff_len, image_max_pixels"
    ):
        verify(exports / "llamafactory", {"max_length": 1})


def test_images_that_would_be_shrunk(tmp_path):
    pool = pool_of(tmp_path / "pool", [(Sample((image(1, (900, 700)),), chat("a", "b")), None)])
    export(keeping(pool), pool, "llamafactory", tmp_path / "out")
    (found,) = verify(tmp_path / "out")
    assert "image_max_pixels of 589,824" in found.what and found.remedy.startswith("set image_max_pixels to 630000,")
    assert verify(tmp_path / "out", {"image_max_pixels": 630_000}) == []


class TestDamage:
    def found(self, folder):
        return [
            (one.what, one.count)
            for one in verify(folder, {limit.option: None for limit in forms()[folder.name].limits})
        ]

    def test_a_missing_image(self, copy):
        folder = copy("ms-swift")
        name = json.loads((folder / "data.jsonl").read_text().splitlines()[6])["images"][0]
        (folder / name).unlink()
        assert self.found(folder) == [
            ("1 records cannot be read (missing-image)", 1),
            ("1 samples that were exported are not there", 1),
        ]

    def test_another_image_in_its_place(self, copy):
        folder = copy("internvl")
        name = json.loads((folder / "data.jsonl").read_text().splitlines()[6])["image"][0]
        (folder / name).write_bytes(image(99))
        assert [what for what, _ in self.found(folder)] == [
            "1 records are not what was exported, or stand there twice",
            "1 samples that were exported are not there",
        ]

    def test_a_lost_line_and_one_that_stands_there_twice(self, copy):
        folder = copy("qwen")
        edit(folder, lambda rows: rows.__setitem__(1, rows[0]))
        assert sorted(self.found(folder)) == [
            ("1 records are not what was exported, or stand there twice", 1),
            ("1 samples that were exported are not there", 1),
        ]

    def test_marks_that_are_fewer_than_images(self, copy):
        folder = copy("llamafactory")
        edit(folder, lambda rows: rows[2]["images"].pop())
        assert self.found(folder)[0] == ("1 records cannot be read (malformed)", 1)

    def test_turns_that_the_trainer_would_drop(self, copy):
        folder = copy("llamafactory")
        edit(folder, lambda rows: rows[0]["messages"].insert(0, {"role": "user", "content": "And?"}))
        assert ("1 records would be lost: LLaMA-Factory drops a sample whose turns do not alternate", 1) in self.found(
            folder
        )

    def test_a_lost_shard(self, copy):
        folder = copy("webdataset")
        (folder / "shard-000000.tar").write_bytes(b"\0" * 10240)
        assert ("7 samples that were exported are not there", 7) in self.found(folder)

    def test_a_table_cut_short(self, copy):
        folder = copy("trl")
        (file,) = (folder / "data").iterdir()
        pq.write_table(pq.read_table(file).slice(0, 5), file)
        assert self.found(folder) == [("2 samples that were exported are not there", 2)]

    def test_a_list_cut_short(self, copy):
        folder = copy("ids")
        lines = (folder / "ids.jsonl").read_text().splitlines(keepends=True)
        (folder / "ids.jsonl").write_text("".join(lines[:5]))
        (found,) = verify(folder)
        assert found.what == "2 samples are not in ids.jsonl" and found.count == 2


@pytest.mark.parametrize("images", ["copy", "leave"])
def test_the_users_own_records_are_verified_too(images, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(image(1))
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "that"}]
    (tmp_path / "in" / "rows.jsonl").write_text(json.dumps({"dialogue": turns, "image": "a.png"}))
    columns = {"messages": "dialogue"}
    pool = ingested(tmp_path / "in", tmp_path / "pool", columns=columns)
    out = tmp_path / "out"
    export(keeping(pool), pool, "same", out, source=tmp_path / "in", columns=columns, images=images)
    assert verify(out, image_roots=[] if images == "copy" else [tmp_path / "in"]) == []
    if images == "leave":
        assert "missing-image" in verify(out)[0].what
    with pytest.raises(ConfigError, match="has no option"):
        verify(out, {"max_length": 5})


def test_a_folder_that_is_no_export_is_told(tmp_path):
    with pytest.raises(DataError, match=r"is no export: it has no \.export/export\.json"):
        verify(tmp_path)


def test_progress_is_told(exports):
    told = []
    verify(exports / "trl", progress=lambda done, total, note="": told.append((done, total)))
    assert told[-1] == (7, 7)
