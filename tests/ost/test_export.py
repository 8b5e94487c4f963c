"""Exports in trainers' forms, and the list of ids: what was kept comes back the same, and what cannot is told."""

import io
import itertools
import json
import re
import shlex
import tarfile
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import yaml
from export_pools import IMAGE, conversations, image, ingested, keeping, pool_of, read_again, turn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ost.data import Dataset, Sample, chat
from ost.data.picture import picture
from ost.errors import ConfigError, DataError
from ost.export import FORMS, export
from ost.export.forms import forms, trl, webdataset
from ost.export.forms.trainer import MARK, MEDIA, alternates, marked, misread, spoken
from ost.export.images import ImageFolder, as_seen
from ost.formats import Images, parse

TRAINERS = {name: form for name, form in forms().items() if form.trainer}
TEXT_FORMS = ("llamafactory", "ms-swift", "qwen", "internvl")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return pool_of(tmp_path_factory.mktemp("pool") / "pool", conversations())


def test_forms_are_found_in_their_files_and_stand_in_their_order():
    assert FORMS == ("same", "ids", "trl", "llamafactory", "ms-swift", "qwen", "internvl", "webdataset")


@pytest.mark.parametrize("form", TRAINERS)
def test_all_that_is_kept_comes_back_the_same_in_the_same_order(form, pool, tmp_path):
    kept = [sample for sample in pool if form != "qwen" or sample.messages[0]["role"] != "system"]
    ids = [sample.id for sample in kept]
    places = [at for at, name in enumerate(pool.ids()) if name in ids]
    told = export(keeping(pool, places), pool, form, tmp_path / "out")
    again = read_again(tmp_path / "out" / TRAINERS[form].data)
    assert [sample.id for sample, _ in again] == ids
    assert told.samples == len(ids) and not told.left_out and told.longest_tokens == 106
    if form != "ms-swift":  # which takes no column beside its own
        assert [sample.task for sample, _ in again] == [sample.task for sample in kept]
    assert told.files == sum(file.is_file() for file in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("form", ["qwen", "internvl", "webdataset"])
def test_forms_that_json_reads_have_the_users_own_ids(form, pool, tmp_path):
    export(keeping(pool, [0, 1, 2, 3, 5, 6]), pool, form, tmp_path / "out")
    again = read_again(tmp_path / "out" / TRAINERS[form].data)
    assert [json.loads(own) for _, own in again] == [own for at, (_, own) in enumerate(conversations()) if at != 4]


@pytest.mark.parametrize("form", TRAINERS)
def test_the_pools_order_is_kept_whatever_the_ranks(form, pool, tmp_path):
    export(keeping(pool, [6, 1, 2]), pool, form, tmp_path / "out")
    ids = pool.ids()
    again = [sample.id for sample, _ in read_again(tmp_path / "out" / TRAINERS[form].data)]
    assert again == [ids[1], ids[2], ids[6]]


words = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda text: not re.search(f"{MEDIA}|<img>", text))
parts = st.lists(st.one_of(words.map(lambda text: {"type": "text", "text": text}), st.just(IMAGE)), max_size=4)


@given(questions=st.lists(parts, min_size=1, max_size=3), answers=st.lists(words, min_size=3, max_size=3))
def test_marks_stand_where_the_parts_stood(questions, answers):
    """Property: what is written with marks is read as the same turns, neighbouring texts aside."""
    messages = []
    for question, answer in zip(questions, answers, strict=False):
        messages += [turn("user", *question), turn("assistant", answer)]
    if misread(messages, re.compile(MEDIA)):
        return  # two texts that are a mark together
    count = sum(part["type"] == "image" for one in messages for part in one["content"])
    record = {
        "conversations": [{"from": role, "value": text} for role, text in marked(spoken(messages))],
        "images": [f"{at}.png" for at in range(count)],
    }
    assert list(parse(record).messages) == spoken(messages)


def test_a_mark_across_two_texts_is_found_and_one_across_an_image_is_none():
    pattern = re.compile(MEDIA)
    assert misread([turn("user", "<im", "age>")], pattern) == MARK
    assert misread([turn("user", "<im", IMAGE, "age>")], pattern) is None
    assert misread([turn("assistant", "x", reasoning_content="a <video> here")], pattern) == "<video>"


@pytest.mark.parametrize("form", TRAINERS)
def test_text_that_spells_a_mark_never_becomes_an_image(form, tmp_path):
    odd = Sample((image(1),), (turn("user", IMAGE, "What does <image> do?"), turn("assistant", "It shows one")))
    pool = pool_of(tmp_path / "pool", [(odd, 1), (Sample((image(2),), chat("What?", "that")), 2)])
    told = export(keeping(pool), pool, form, tmp_path / "out")
    again = read_again(tmp_path / "out" / TRAINERS[form].data) if form in TEXT_FORMS else []
    if form in TEXT_FORMS:
        assert [sample.id for sample, _ in again] == pool.ids()[1:]
        ((why, count),) = told.left_out.items()
        assert count == 1 and "<image>" in why and odd.id in told.notes[0]
    else:
        assert not told.left_out and told.samples == 2


@pytest.mark.parametrize(("words", "form"), [("{{image}}", "llamafactory"), ("<img>/etc/passwd</img>", "ms-swift")])
def test_marks_of_one_trainer_alone_are_left_out_there(words, form, tmp_path):
    pool = pool_of(tmp_path / "pool", [(Sample((), chat(words, "no", 0)), 1), (Sample((), chat("a", "b", 0)), 2)])
    assert export(keeping(pool), pool, form, tmp_path / "out").samples == 1
    assert export(keeping(pool), pool, "internvl", tmp_path / "other").samples == 2


@pytest.mark.parametrize(
    ("form", "kept"), [("llamafactory", 1), ("ms-swift", 1), ("internvl", 1), ("qwen", 2), ("trl", 2)]
)
def test_turns_that_do_not_alternate_are_left_out_where_the_trainer_would_lose_them(form, kept, tmp_path):
    odd = Sample((), (turn("user", "a"), turn("user", "b"), turn("assistant", "c")))
    assert not alternates(odd.messages) and alternates(chat("a", "b", 0))
    pool = pool_of(tmp_path / "pool", [(odd, None), (Sample((), chat("a", "b", 0)), None)])
    told = export(keeping(pool), pool, form, tmp_path / "out")
    assert told.samples == kept and sum(told.left_out.values()) == 2 - kept


def test_a_form_that_can_say_nothing_is_refused_and_leaves_nothing_behind(tmp_path):
    pool = pool_of(tmp_path / "pool", [(Sample((), chat("<image>", "no", 0)), 1)])
    with pytest.raises(DataError, match=r"can take none of the 1 samples: .*<image>"):
        export(keeping(pool), pool, "qwen", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_qwen_is_given_a_system_turn_in_the_first_question_and_it_is_told(pool, tmp_path):
    told = export(keeping(pool, [4]), pool, "qwen", tmp_path / "out")
    (line,) = (tmp_path / "out" / "data.jsonl").read_text().splitlines()
    first = json.loads(line)["conversations"][0]
    assert first == {"from": "human", "value": "Be brief.\n\n<image>How many?"}
    assert any("system turns of 1 samples" in note for note in told.notes)


class TestLearned:
    """What is learned is said where the form can, and told where it cannot."""

    LAST = (
        Sample((), (turn("user", "a"), turn("assistant", "b", loss=False), turn("user", "c"), turn("assistant", "d"))),
        Sample((), chat("e", "f", 0)),
    )
    ALL = (
        Sample((), (turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d"))),
        Sample((), chat("e", "f", 0)),
    )
    FIRST = (
        Sample((), (turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d", loss=False))),
        Sample((), chat("e", "f", 0)),
    )

    def exported(self, samples, form, tmp_path):
        pool = pool_of(tmp_path / "pool", [(sample, None) for sample in samples])
        return export(keeping(pool), pool, form, tmp_path / "out"), tmp_path / "out"

    @pytest.mark.parametrize(("samples", "columns"), [(LAST, "prompt"), (ALL, "messages"), (FIRST, "messages")])
    def test_trl_learns_a_completion_or_answers_by_their_marks(self, samples, columns, tmp_path):
        told, out = self.exported(samples, "trl", tmp_path)
        rows = datasets.load_dataset("parquet", data_files=str(out / "data" / "*.parquet"), split="train")
        options = yaml.safe_load((out / "sft.yaml").read_text())
        assert columns in rows.features and "images" not in rows.features
        assert options.get("assistant_only_loss", False) is (columns == "messages")
        assert any("context alone" in note for note in told.notes) is (samples is self.FIRST)
        if columns == "prompt":
            assert [sample.id for sample, _ in read_again(out / "data")] == [sample.id for sample in samples]

    @pytest.mark.parametrize(("samples", "history"), [(LAST, True), (ALL, False), (FIRST, False), (ALL[1:], False)])
    def test_llamafactory_is_told_to_mask_what_comes_before_the_last(self, samples, history, tmp_path):
        told, out = self.exported(samples, "llamafactory", tmp_path)
        assert yaml.safe_load((out / "sft.yaml").read_text())["mask_history"] is history
        assert any("context alone" in note for note in told.notes) is (samples is self.FIRST)

    @pytest.mark.parametrize("samples", [LAST, ALL, FIRST])
    def test_ms_swift_is_told_turn_by_turn_in_every_row_or_in_none(self, samples, tmp_path):
        _, out = self.exported(samples, "ms-swift", tmp_path)
        rows = [json.loads(line)["messages"] for line in (out / "data.jsonl").read_text().splitlines()]
        said = ["loss" in one for row in rows for one in row if one["role"] == "assistant"]
        assert said == [samples is not self.ALL] * 3
        assert [sample.id for sample, _ in read_again(out / "data.jsonl")] == [sample.id for sample in samples]

    @pytest.mark.parametrize("form", ["qwen", "internvl"])
    def test_what_has_no_word_for_it_is_told(self, form, tmp_path):
        told, _ = self.exported(self.LAST, form, tmp_path)
        assert any("1 samples have answers that are context alone" in note for note in told.notes)


def test_a_reasoning_stands_in_the_text_or_in_a_field_of_its_own(tmp_path):
    thinks = Sample((), (turn("user", "2 + 2?"), turn("assistant", "4", reasoning_content="two and two")))
    pool = pool_of(tmp_path / "pool", [(thinks, None), (Sample((), chat("a", "b", 0)), None)])
    for form in ("trl", "webdataset"):
        export(keeping(pool), pool, form, tmp_path / form)
        assert {sample.id for sample, _ in read_again(tmp_path / form / TRAINERS[form].data)} == set(pool.ids())
    for form in TEXT_FORMS:
        export(keeping(pool), pool, form, tmp_path / form)
        answers = [sample.answer for sample, _ in read_again(tmp_path / form / "data.jsonl")]
        assert answers == ["<think>\ntwo and two\n</think>\n\n4", "b"]


class TestImages:
    def turned(self) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = 6
        return image(1, (20, 10), "JPEG", exif=exif)

    def clear(self) -> bytes:
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    def deep(self) -> bytes:
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    @pytest.mark.parametrize("name", ["turned", "clear", "deep"])
    def test_what_loaders_would_show_otherwise_is_written_as_it_is_seen(self, name):
        old = getattr(self, name)()
        new = as_seen(old)
        seen, loaded = picture(old), Image.open(io.BytesIO(new)).convert("RGB")
        assert new != old and loaded.size == seen.size
        # A photograph is written as one again, which is not exact.
        difference = np.abs(np.asarray(loaded, int) - np.asarray(seen, int)).mean()
        assert difference == 0 or (name == "turned" and difference < 8)
        assert as_seen(new) == new

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
    def test_plain_ones_keep_their_bytes_and_loaders_show_what_is_seen(self, form, mode):
        if (form, mode) in {("JPEG", "P")}:
            return
        pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(buffer := io.BytesIO(), form)
        old = buffer.getvalue()
        assert as_seen(old) is old
        loaded = Image.open(io.BytesIO(old)).convert("RGB")
        assert np.array_equal(np.asarray(loaded), np.asarray(picture(old)))

    def test_an_export_tells_how_many_it_wrote_anew(self, tmp_path):
        pool = pool_of(tmp_path / "pool", [(Sample((self.clear(), image(2)), chat("a", "b", 2)), None)])
        told = export(keeping(pool), pool, "ms-swift", tmp_path / "out")
        assert "1 images are turned by EXIF, transparent" in told.notes[0]
        ((sample, _),) = read_again(tmp_path / "out" / "data.jsonl")
        assert sample.images[1] == image(2) and picture(sample.images[0]).getpixel((0, 0)) == (255, 255, 255)

    def test_each_content_is_one_file_and_no_folder_holds_too_many(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ost.export.images.MOST_FILES", 10)
        folder = ImageFolder(tmp_path, 400)
        paths = [folder.add(b"\x89PNG" + str(seed).encode()) for seed in [*range(400), 7]]
        assert len(set(paths)) == 400 and paths[7] == paths[-1]
        assert all((tmp_path / path).is_file() for path in paths)
        most = max(len(list(one.iterdir())) for one in (tmp_path / "images").iterdir())
        assert most <= 20


class TestTypes:
    """`datasets` guesses a JSON file's types from its first 10 MB."""

    LONG = "word " * 250_000

    def exported(self, samples, form, tmp_path) -> Path:
        pool = pool_of(tmp_path / "pool", samples)
        export(keeping(pool), pool, form, tmp_path / "out")
        return tmp_path / "out" / "data.jsonl"

    def loaded(self, file, tmp_path) -> datasets.Dataset:
        return datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))

    def texts(self):
        return [(Sample((), chat(f"{at} {self.LONG}", "no", 0)), "2024-01-01") for at in range(12)]

    @pytest.mark.parametrize("form", ["llamafactory", "ms-swift"])
    def test_an_image_behind_much_text_is_loaded(self, form, tmp_path):
        last = (Sample((image(1),), chat("what", "that")), "2024-01-01")
        found = self.loaded(self.exported([*self.texts(), last], form, tmp_path), tmp_path)
        assert sorted(map(len, found["images"])) == [0] * 12 + [1]

    def test_ids_are_loaded_though_the_first_look_like_dates(self, tmp_path):
        last = (Sample((), chat("what", "that", 0)), "abc")
        found = self.loaded(self.exported([*self.texts(), last], "llamafactory", tmp_path), tmp_path)
        assert found["own_id"][-1] == '"abc"' and found.features["own_id"] == datasets.Value("string")

    def test_without_that_care_it_is_not(self, tmp_path):
        """Else the first test could not fail."""
        last = (Sample((image(1),), chat("what", "that")), None)
        file = self.exported([*self.texts(), last], "ms-swift", tmp_path)
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(sorted(lines, key=len, reverse=True)))
        with pytest.raises(datasets.exceptions.DatasetGenerationError):
            self.loaded(file, tmp_path)

    def test_no_reader_takes_one_line_for_two(self, tmp_path):
        pool = pool_of(tmp_path / "pool", [(Sample((), chat("a\u2028b\x85c", "d\ne\u2029\x0b\r", 0)), "\u2028")])
        for form in TEXT_FORMS:
            export(keeping(pool), pool, form, tmp_path / form)
            assert len((tmp_path / form / "data.jsonl").read_text().splitlines()) == 1
            assert [sample.id for sample, _ in read_again(tmp_path / form / "data.jsonl")] == pool.ids()

    @pytest.mark.parametrize(("early", "order"), [(3, [2, 0, 1, 3]), (1000, [0, 1, 2, 3])])
    def test_the_order_changes_only_behind_much_text(self, early, order, tmp_path, monkeypatch):
        monkeypatch.setattr("ost.export.selected.EARLY", early)
        texts = [Sample((), chat(f"what {at}", "that", 0)) for at in range(2)]
        images = [Sample((image(at),), chat("what", "that")) for at in range(2)]
        pool = pool_of(tmp_path / "pool", [(sample, None) for sample in [*texts, *images]])
        ids = pool.ids()
        for form, expected in (("ms-swift", order), ("llamafactory", order), ("qwen", range(4))):
            export(keeping(pool), pool, form, tmp_path / form)
            again = [sample.id for sample, _ in read_again(tmp_path / form / "data.jsonl")]
            assert again == [ids[at] for at in expected]


class TestSidecars:
    def test_lengths_that_suffice_are_named_in_each_trainers_own_option(self, tmp_path):
        pool = pool_of(tmp_path / "pool", conversations(), tokens=[10, 20, 3000, 40, 50, 60, 70])
        for form, file, option, length in (
            ("trl", "sft.yaml", "max_length", None),
            ("llamafactory", "sft.yaml", "cutoff_len", 3328),
            ("ms-swift", "sft.yaml", "max_length", 3328),
        ):
            told = export(keeping(pool), pool, form, tmp_path / form)
            assert yaml.safe_load((tmp_path / form / file).read_text())[option] == length
            assert "3000 tokens" in (tmp_path / form / file).read_text() and told.longest_tokens == 3000
        told = export(keeping(pool), pool, "qwen", tmp_path / "qwen")
        assert "--model_max_length 3328" in told.commands[0]
        told = export(keeping(pool), pool, "internvl", tmp_path / "internvl")
        assert "--max_seq_length 3328" in told.commands[0]

    def test_images_larger_than_llamafactorys_default_raise_its_limit(self, tmp_path):
        pool = pool_of(tmp_path / "pool", [(Sample((image(1, (900, 700)),), chat("a", "b")), None)])
        export(keeping(pool), pool, "llamafactory", tmp_path / "out")
        assert yaml.safe_load((tmp_path / "out" / "sft.yaml").read_text())["image_max_pixels"] == 900 * 700

    def test_llamafactory_knows_images_only_where_there_are_any(self, pool, tmp_path):
        for kept, named in (([1, 2], True), ([0, 5], False)):
            out = tmp_path / str(named)
            export(keeping(pool, kept), pool, "llamafactory", out)
            columns = json.loads((out / "dataset_info.json").read_text())["subset"]["columns"]
            assert ("images" in columns) is named
            assert all(("images" in json.loads(line)) is named for line in (out / "data.jsonl").open())

    def test_internvl_has_lists_of_images_and_sizes_and_a_meta_file(self, pool, tmp_path):
        export(keeping(pool, [0, 1, 2]), pool, "internvl", tmp_path / "out")
        rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").open()]
        assert "image" not in rows[0] and len(rows[1]["image"]) == 1 and len(rows[2]["image"]) == 2
        assert rows[2]["width_list"] == [8, 8] and rows[2]["height_list"] == [6, 6]
        (meta,) = json.loads((tmp_path / "out" / "meta.json").read_text()).values()
        assert meta["length"] == 3 and meta["repeat_time"] == 1 and meta["data_augment"] is False
        assert Path(meta["annotation"]).parent == Path(meta["root"]) == (tmp_path / "out").resolve()

    def test_qwen_has_an_entry_that_python_reads(self, pool, tmp_path):
        export(keeping(pool, [0, 1, 2]), pool, "qwen", tmp_path / "out")
        found: dict = {}
        exec((tmp_path / "out" / "data_dict.py").read_text(), found)
        assert Path(found["SUBSET"]["annotation_path"]).is_file() and Path(found["SUBSET"]["data_path"]).is_dir()
        rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").open()]
        assert [type(row.get("image")) for row in rows] == [type(None), str, list]


@pytest.mark.parametrize("form", TRAINERS)
def test_commands_and_sidecars_take_a_folder_of_any_name(form, pool, tmp_path):
    out = tmp_path / 'it\'s "mine" {x}'
    told = export(keeping(pool), pool, form, out)
    words = shlex.split(told.commands[0])
    assert str(out) in words or form in ("internvl", "qwen")
    if form == "internvl":
        assert Path(words[1]).is_file()
    for file in out.glob("*.py"):
        compile(file.read_text(), file, "exec")
    if form == "qwen":
        exec((out / "data_dict.py").read_text(), found := {})
        assert Path(found["SUBSET"]["annotation_path"]).is_file()


def test_trl_loads_one_type_a_column_in_shards_that_are_cut_by_bytes(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(trl, "SHARD_BYTES", 700)
    monkeypatch.setattr(trl, "GROUP_BYTES", 300)
    export(keeping(pool), pool, "trl", tmp_path / "out")
    names = sorted(file.name for file in (tmp_path / "out" / "data").iterdir())
    assert len(names) > 1 and names == [f"train-{at:05d}-of-{len(names):05d}.parquet" for at in range(len(names))]
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["images"] == datasets.List(datasets.Image())
    assert loaded["id"] == pool.ids() and [len(images) for images in loaded["images"]] == [0, 1, 2, 2, 1, 0, 1]
    assert loaded[1]["messages"][1]["content"] == [{"type": "text", "text": "007"}]


def test_tars_hold_whole_samples_whose_keys_have_no_dot(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "SHARD_BYTES", 24_000)
    many = Sample(tuple(image(seed) for seed in range(12)), chat("how many", "12", 12))
    pool = pool_of(tmp_path / "pool", [*conversations(), (many, "m.a.n.y")])
    export(keeping(pool), pool, "webdataset", tmp_path / "out")
    keys = []
    shards = sorted((tmp_path / "out").glob("*.tar"))
    for shard in shards:
        assert shard.stat().st_size <= 24_000
        with tarfile.open(shard) as tar:
            names = tar.getnames()
        keys += [key for key, _ in itertools.groupby(name.split(".", 1)[0] for name in names)]
    assert len(shards) > 1 and keys == pool.ids()
    last = [name.partition(".")[2] for name in names if name.startswith(many.id)]
    assert last == ["json", *(f"{at:02d}.png" for at in range(12))] == ["json", *sorted(last[1:])]


class TestIds:
    def lines(self, folder):
        return [json.loads(line) for line in (folder / "ids.jsonl").open()]

    def test_the_kept_come_by_rank_with_the_users_own_ids_and_places(self, pool, tmp_path):
        ids = pool.ids()
        scores = pa.table({"id": ids[::-1], "utility": [0.5, float("nan"), *range(5)], "loss": [0.0] * 7})
        export(keeping(pool, [6, 0, 5]), pool, "ids", tmp_path / "out", scores=scores)
        assert self.lines(tmp_path / "out") == [
            {
                "rank": 1,
                "own_id": "b",
                "file": "rows.jsonl",
                "position": 6,
                "id": ids[6],
                "utility": 0.5,
                "reason": "kept",
            },
            {
                "rank": 2,
                "own_id": 17,
                "file": "rows.jsonl",
                "position": 0,
                "id": ids[0],
                "utility": 4.0,
                "reason": "kept",
            },
            {
                "rank": 3,
                "own_id": "null",
                "file": "rows.jsonl",
                "position": 5,
                "id": ids[5],
                "utility": None,
                "reason": "kept",
            },
        ]

    def test_all_are_listed_on_demand_with_a_reason_each(self, pool, tmp_path):
        export(keeping(pool, [6, 0]), pool, "ids", tmp_path / "out", everything=True)
        lines = self.lines(tmp_path / "out")
        assert [line["position"] for line in lines] == [6, 0, 1, 2, 3, 4, 5]
        assert [line["reason"] for line in lines] == ["kept"] * 2 + ["not drawn"] * 5


class TestRefused:
    def test_a_form_that_is_none_names_those_that_are(self, pool, tmp_path):
        with pytest.raises(ConfigError, match=r"no form 'parquet'.*" + ", ".join(FORMS)):
            export(keeping(pool), pool, "parquet", tmp_path / "out")

    def test_the_same_records_need_their_source(self, pool, tmp_path):
        with pytest.raises(ConfigError, match="source"):
            export(keeping(pool), pool, "same", tmp_path / "out")

    def test_what_is_no_export_is_never_overwritten(self, pool, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("x")
        for overwrite in (False, True):
            with pytest.raises(DataError, match="is no export"):
                export(keeping(pool), pool, "trl", tmp_path / "out", overwrite=overwrite)
        assert (tmp_path / "out" / "thesis.tex").read_text() == "x"

    def test_an_export_is_overwritten_on_demand_and_an_empty_folder_at_once(self, pool, tmp_path):
        (tmp_path / "out").mkdir()
        export(keeping(pool), pool, "qwen", tmp_path / "out")
        with pytest.raises(DataError, match="holds an export already"):
            export(keeping(pool), pool, "trl", tmp_path / "out")
        export(keeping(pool), pool, "trl", tmp_path / "out", overwrite=True)
        assert not (tmp_path / "out" / "data.jsonl").exists() and (tmp_path / "out" / "sft.yaml").is_file()

    def test_a_selection_of_another_pool_is_told(self, pool, tmp_path):
        other = pool_of(tmp_path / "other", [(Sample((), chat("x", "y", 0)), None)])
        for form in ("trl", "ids"):
            with pytest.raises(DataError, match="1 of 1 kept samples are not in"):
                export(keeping(other), pool, form, tmp_path / "out")

    def test_a_selection_that_keeps_nothing_is_told(self, pool, tmp_path):
        with pytest.raises(DataError, match="keeps no sample"):
            export(keeping(pool, []), pool, "trl", tmp_path / "out")


def test_what_was_exported_can_be_a_pool_again(pool, tmp_path):
    """The folder as a whole, beside its data, holds nothing that is taken for samples."""
    for form in ("trl", "llamafactory", "ms-swift", "webdataset"):
        export(keeping(pool), pool, form, tmp_path / form)
        assert ingested(tmp_path / form, tmp_path / f"again-{form}").ids() == pool.ids()
        assert Images(tmp_path / form)


def test_rows_that_the_pool_left_out_stay_out(tmp_path):
    """A copy of a kept sample, or another, that ingestion wrote and then took out of the set again."""
    samples = [sample for sample, _ in conversations()]
    pool_of(tmp_path / "pool", [(sample, at) for at, sample in enumerate([samples[1], *samples, samples[2]])])
    listing = json.loads((tmp_path / "pool" / "dataset.json").read_text())
    listing["shards"][0]["left_out"] = [0, 3, 8]
    (tmp_path / "pool" / "dataset.json").write_text(json.dumps(listing))
    pool = Dataset(tmp_path / "pool")
    assert len(pool) == 6
    for form in ("trl", "ms-swift"):
        assert export(keeping(pool), pool, form, tmp_path / form).samples == 6
        again = read_again(tmp_path / form / TRAINERS[form].data)
        assert [sample.id for sample, _ in again] == pool.ids() == [one.id for one in samples[:2] + samples[3:]]


def test_what_is_not_kept_has_no_say(tmp_path, monkeypatch):
    """Each sample in a row group of its own, one that no trainer takes between those that are kept."""
    monkeypatch.setattr("ost.data.shards.GROUP_BYTES", 1)
    texts = ["a", "<image>", "b", "c"]
    pool = pool_of(tmp_path / "pool", [(Sample((), chat(text, "no", 0)), None) for text in texts])
    told = export(keeping(pool, [0, 2, 3]), pool, "internvl", tmp_path / "out")
    assert told.samples == 3 and not told.left_out
    assert export(keeping(pool, [0, 1, 3]), pool, "internvl", tmp_path / "two").samples == 2


@pytest.mark.parametrize("form", ["trl", "webdataset", "ms-swift"])
def test_memory_does_not_grow_with_the_samples(form, tmp_path, monkeypatch):
    """50 MB of images, of which some 12 are held at a time, by Python and by Arrow."""
    monkeypatch.setattr("ost.data.dataset.CACHED_BYTES", 1 << 20)
    photo = image(0, (300, 290))
    images = [photo + at.to_bytes(2, "big") for at in range(190)]
    pool = pool_of(tmp_path / "pool", ((Sample((one,), chat(str(at), "x")), at) for at, one in enumerate(images)))
    total, selection = sum(map(len, images)), keeping(pool)
    del images
    assert total > 45 << 20
    arrow = []
    tracemalloc.start()
    export(selection, pool, form, tmp_path / "out", progress=lambda *_: arrow.append(pa.total_allocated_bytes()))
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert python < 20 << 20 and max(arrow) - arrow[0] < 20 << 20


def test_progress_is_told_to_the_end(pool, tmp_path):
    told = []
    export(
        keeping(pool), pool, "trl", tmp_path / "out", progress=lambda done, total, note="": told.append((done, total))
    )
    assert told[-1] == (7, 7)
