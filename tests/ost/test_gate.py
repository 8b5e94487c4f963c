"""The gate: a record passes whole, or is turned away with the reason that it deserves."""

import base64
import json
import os
import re
import typing
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_records import LINES
from PIL import Image
from pools import ASKED, PNG, SAID, data_url, encoded, record, talk, write_jsonl

from ost.data import FEATURES
from ost.data.shards import from_row, to_row
from ost.encoding import IGNORE, Encoder
from ost.formats import Images, Reason, load, open_source
from ost.ingestion import gate as gate_module
from ost.ingestion.gate import Gate, Rules, Verdict
from ost.settings import Data

MAX_TOKENS = 64
SETTINGS = Data(max_tokens=MAX_TOKENS, max_pixels=10_000)
IMAGE_PART = {"type": "image"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where this file's records lie; no verdict may tell its name."""
    return tmp_path_factory.mktemp("named-nowhere")


@pytest.fixture(scope="module")
def gate(model_folder, folder) -> Gate:
    return Gate(Rules.of(SETTINGS, model_folder), folder)


def verdicts(gate: Gate, folder: Path, *records: dict | bytes) -> list[Verdict]:
    """What becomes of records that stand in a JSONL."""
    source = open_source(write_jsonl(folder, records))
    return [
        gate.judge(one, unit.file, unit.name, position)
        for unit in source.units()
        for position, one in load(unit).records
    ]


def asks(*content: object) -> dict:
    return record(messages=[{"role": "user", "content": list(content)}, SAID])


BAD: dict[str, tuple[Reason, str, dict | bytes]] = {
    "no JSON": ("malformed", "not JSON", b'{"messages": ['),
    "no UTF-8": ("malformed", "not JSON", b'{"messages": "\xff"}'),
    "nested without end": ("malformed", "recursion", b"[" * 100_000),
    "no object": ("malformed", r"no JSON object but \[1, 2\]", b"[1, 2]"),
    "no turns": ("malformed", "no chat turns.*found 'images'", {"images": [data_url(PNG)]}),
    "messages are no list": ("malformed", "must be a list", record(messages="hello")),
    "messages are empty": ("malformed", "must be a list", record(messages=[])),
    "a message is text": ("malformed", "must hold `role`", record(messages=["hello", SAID])),
    "an unknown role": (
        "malformed",
        "'narrator'",
        record(messages=[ASKED, {"role": "narrator", "content": "x"}, SAID]),
    ),
    "a role of no hash": ("malformed", "role must be", record(messages=[{"role": [], "content": "x"}, SAID])),
    "content is a number": ("malformed", "found 3", record(messages=[{"role": "user", "content": 3}, SAID])),
    "a part is text": ("malformed", "a part must be", asks("x")),
    "a text part without text": ("malformed", "a part must be|must be text", asks({"type": "text"})),
    "half a surrogate pair": ("malformed", "not valid Unicode", record("\ud83d")),
    "half a pair in the answer": ("malformed", "not valid Unicode", record(answer="\udc00")),
    "the user speaks last": ("malformed", "last message.*by the user", record(messages=[ASKED, SAID, ASKED])),
    "nothing was asked": ("malformed", "nothing was asked", record(messages=[SAID])),
    "task is a number": ("malformed", "`task` must be text", record(task=3)),
    "an image is a number": ("malformed", "found 3", record(images=[3])),
    "image and images differ": ("malformed", "differ", record(image=data_url(encoded(seed=1)))),
    "fewer images than parts": ("malformed", "2 image part.*1 image", asks(IMAGE_PART, IMAGE_PART)),
    "fewer images than marks": ("malformed", r"2 mark\(s\) <image>.*1 image", record("<image> or <image>?")),
    "parts without images": ("malformed", "1 image part.*0 image", asks(IMAGE_PART) | {"images": []}),
    "an image part in the answer": (
        "malformed",
        "answer holds an image part",
        record(messages=[ASKED, {"role": "assistant", "content": [IMAGE_PART, {"type": "text", "text": "1"}]}]),
    ),
    "a video part": ("unsupported", "video", asks({"type": "video"})),
    "a video's mark": ("unsupported", "<video>", record("<video> what?")),
    "a tool speaks": ("unsupported", "tool", record(messages=[ASKED, {"role": "tool", "content": "x"}, SAID])),
    "videos": ("unsupported", "`videos`", record(videos=["a.mp4"])),
    "tools": ("unsupported", "`tools`", record(tools=[{"name": "search"}])),
    "absent file": ("missing-image", "'absent.png': no such file", record(images=["absent.png"])),
    "a folder": ("missing-image", "no such file", record(images=["."])),
    "a web address": ("missing-image", "not fetched", record(images=["https://example.org/a.png"])),
    "a zero byte": ("missing-image", "cannot be read", record(images=["a\0.png"])),
    "a name too long": ("missing-image", "cannot be read", record(images=["a" * 5000])),
    "neither bytes nor path": ("missing-image", "neither", record(images=[{"bytes": None, "path": None}])),
    "null": ("missing-image", "neither", record(images=[None])),
    "parent folder": ("image-outside-folder", "data.image_roots", record(images=["../secret.png"])),
    "absolute path": ("image-outside-folder", "data.image_roots", record(images=["/etc/hostname"])),
    "no image bytes": ("broken-image", "0 bytes that are none of PNG", record(images=[data_url(b"")])),
    "not base64": ("broken-image", "not base64", record(images=["data:image/png;base64,@@@"])),
    "a data URL in plain text": ("broken-image", "only base64", record(images=["data:image/svg+xml,<svg/>"])),
    "a format not allowed": ("broken-image", "none of PNG, JPEG", record(images=[data_url(encoded(form="PPM"))])),
    "a flipped bit": ("broken-image", ".", record(images=[data_url(PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:])])),
    "the second image": ("broken-image", ".", record(images=[data_url(PNG), data_url(PNG[:90])])),
    "too many pixels": (
        "image-too-large",
        "10100 pixels, more than data.max_pixels = 10000",
        record(images=[data_url(encoded((101, 100)))]),
    ),
    "blank answer": ("empty-answer", "blank", record(answer=" \n")),
    "a blank answer among others": ("empty-answer", "blank", talk("a", "", "b", "2")),
    "an answer without parts": (
        "empty-answer",
        "blank",
        record(messages=[ASKED, {"role": "assistant", "content": []}]),
    ),
    "no answer to learn": ("empty-answer", "`loss` is false", record(messages=[ASKED, SAID | {"loss": False}])),
    "too long": ("too-long", f"tokens, more than data.max_tokens = {MAX_TOKENS}", record("What is it? " * MAX_TOKENS)),
    "too long to be counted": ("too-long", "1,048,578 characters", record("?" * (2**20 + 1))),
    "a shape that the processor refuses": ("cannot-encode", ".", record(images=[data_url(encoded((8000, 1)))])),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_turned_away_for_its_reason(name, gate, folder):
    reason, told, bad = BAD[name]
    first, verdict, last = verdicts(gate, folder, record("first?"), bad, record("last?"))
    assert first.passed and last.passed, "its neighbours stay"
    assert (verdict.position, verdict.why.reason, verdict.facts) == (1, reason, None), verdict.why
    assert re.search(told, verdict.why.detail) and verdict.why.detail.isprintable(), verdict.why.detail
    assert folder.name not in verdict.why.detail, "the table must be the same on every machine"


def test_every_reason_is_tested():
    elsewhere = {"duplicate", "in-anchors", "in-benchmark", "broken-file"}
    assert {reason for reason, _, _ in BAD.values()} | elsewhere == set(typing.get_args(Reason))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_image_is_broken_and_a_whole_one_is_not(form, gate, folder):
    whole = encoded(form=form)
    pair = [record(images=[data_url(image)]) for image in (whole, whole[: len(whole) * 2 // 3])]
    kept, cut = verdicts(gate, folder, *pair)
    assert kept.passed and cut.why.reason == "broken-image"


def test_the_images_of_a_record_are_bounded_together(gate, folder, monkeypatch):
    """Each is small enough; many names of one file would be as many copies of it."""
    (folder / "own.png").write_bytes(PNG)
    monkeypatch.setattr(gate_module, "MOST_BYTES", 3 * len(PNG))
    loads, real = [], Images.load
    monkeypatch.setattr(Images, "load", lambda images, *args: [loads.append(1), real(images, *args)][1])
    for many in (["own.png"] * 40, [data_url(PNG)] * 40, ["own.png", data_url(PNG)] * 20):
        loads.clear()
        three, over = verdicts(gate, folder, record(images=many[:3]), record(images=many))
        assert three.passed
        assert over.why.reason == "image-too-large" and "together" in over.why.detail
        assert len(loads) == 3 + 4, "the rest was read as well"


def test_a_decompression_bomb_is_neither_decoded_nor_warned_about(gate, folder, monkeypatch):
    bombs = [encoded((100, 90)), encoded((100, 70))]  # beyond twice PIL's own limit; beyond it once
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twice, once = verdicts(gate, folder, *(record(images=[data_url(bomb)]) for bomb in bombs))
    assert twice.why.reason == "image-too-large" and once.passed


def test_samples_are_never_cut(gate, folder):
    """One token more is enough to go, and what stays keeps all its text."""
    questions = ["?" * count for count in range(1, MAX_TOKENS)]
    found = verdicts(gate, folder, *map(record, questions))
    kept = [verdict.sample.question for verdict in found if verdict.passed]
    assert 0 < len(kept) < len(questions) and kept == questions[: len(kept)]
    assert [verdict.facts.tokens for verdict in found[: len(kept)]][-1] == MAX_TOKENS
    refused = found[len(kept) :]
    assert {verdict.why.reason for verdict in refused} == {"too-long"}
    assert f"{MAX_TOKENS + 1} tokens" in refused[0].why.detail


def test_what_smaller_images_would_save_is_told_apart(gate, folder):
    large = data_url(encoded((100, 100)))  # 36 tokens
    one, two, text = verdicts(
        gate, folder, record(images=[large]), record(images=[large, large]), record("What is it? " * MAX_TOKENS)
    )
    assert one.passed and not one.shrinkable
    assert two.why.reason == text.why.reason == "too-long"
    assert two.shrinkable and not text.shrinkable


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=2, max_size=4),
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=2),
)
def test_what_is_known_of_a_sample_is_what_training_will_see(texts, shapes, gate, folder, processor):
    texts = [text.replace("<", "(") + "x" for text in texts[: len(texts) // 2 * 2]]
    images = [data_url(encoded(shape)) for shape in shapes]
    (verdict,) = verdicts(gate, folder, talk(*texts, images=images))
    if not verdict.passed:
        assert verdict.why.reason in ("too-long", "cannot-encode"), verdict.why
        return
    batch = Encoder(processor).training([verdict.sample])
    assert verdict.facts.tokens == int(batch["attention_mask"].sum())
    assert verdict.facts.learned == int((batch["labels"] != IGNORE).sum()) > 0
    assert verdict.facts.sizes == tuple(shapes)


def test_an_image_is_looked_at_once_and_only_in_records_that_may_stay(gate, folder, monkeypatch):
    decoded, loaded = [], []
    fault, load_image = gate_module.fault, Images.load
    monkeypatch.setattr(gate_module, "fault", lambda image, most: decoded.append(image) or fault(image, most))
    monkeypatch.setattr(
        Images, "load", lambda self, located, most: loaded.append(located) or load_image(self, located, most)
    )
    (folder / "own.png").write_bytes(own := encoded(seed=77))
    broken = data_url(encoded(seed=78)[:90])
    records = [
        record(images=["own.png"], answer=" "),
        record(images=["own.png"]),
        record("again?", images=["own.png", "own.png"]),
        record(images=[broken]),
        record("again?", images=[broken]),
    ]
    found = verdicts(gate, folder, *records)
    assert decoded == [own, base64.b64decode(broken.partition(",")[2])]
    assert len(loaded) == 5, "of the record with a blank answer, nothing"
    assert [verdict.passed for verdict in found] == [False, True, True, False, False]
    assert found[3].why == found[4].why


def test_no_more_than_a_few_images_are_remembered(folder, monkeypatch):
    decoded, fault = [], gate_module.fault
    monkeypatch.setattr(gate_module, "fault", lambda image, most: decoded.append(image) or fault(image, most))
    monkeypatch.setattr(gate_module, "REMEMBERED", 2)
    images = [encoded(seed=seed) for seed in (0, 1, 1, 2, 0)]
    verdicts(Gate(Rules.of(SETTINGS, None), folder), folder, *(record(images=[data_url(image)]) for image in images))
    assert decoded == [images[place] for place in (0, 1, 3, 4)], "memory must not grow with the pool"


def test_files_that_were_read_are_known_with_their_state(gate, folder):
    (folder / "state.png").write_bytes(PNG)
    os.utime(folder / "state.png", ns=(5, 7))
    (verdict,) = verdicts(gate, folder, record(images=["state.png", data_url(PNG)]))
    (image,) = verdict.files
    now = (folder / "state.png").stat()
    assert image == ("state.png", str((folder / "state.png").resolve()), len(PNG), 7, now.st_ino, now.st_ctime_ns)
    assert gate.is_as_it_was(image, folder / "samples.jsonl")
    os.utime(folder / "state.png", ns=(5, 8))
    assert not gate.is_as_it_was(image, folder / "samples.jsonl")
    (folder / "state.png").unlink()
    assert not gate.is_as_it_was(image, folder / "samples.jsonl")


def test_the_own_id_and_unread_columns_of_a_refused_record_are_known(gate, folder):
    (verdict,) = verdicts(gate, folder, record(answer="", id=41361, source="web"))
    assert (verdict.own_id, verdict.unread) == ("41361", ("source",))


def test_train_on_last_makes_the_earlier_answers_context(model_folder, folder):
    rules = Rules.of(SETTINGS.model_copy(update={"train_on": "last"}), model_folder)
    last, every = Gate(rules, folder), Gate(Rules.of(SETTINGS, model_folder), folder)
    rounds = talk("a?", "3", "b?", "red")
    (one,), (all_of_them,) = verdicts(last, folder, rounds), verdicts(every, folder, rounds)
    assert one.sample.learned == (3,) and all_of_them.sample.learned == (1, 3)
    assert one.sample.messages[1]["loss"] is False
    assert one.facts.tokens == all_of_them.facts.tokens and one.facts.learned < all_of_them.facts.learned
    assert len(one.prompts) == 1 and len(all_of_them.prompts) == 2 and one.prompts[0] != all_of_them.prompts[0]
    (blank,) = verdicts(last, folder, talk("a?", " ", "b?", "red"))
    assert blank.passed, "an answer that is context alone may be blank"


def test_columns_of_another_name_are_read_by_it(model_folder, folder):
    settings = SETTINGS.model_copy(update={"columns": {"messages": "dialogue", "task": "kind"}})
    gate = Gate(Rules.of(settings, model_folder), folder)
    named = {"dialogue": [ASKED, SAID], "kind": "charts"}
    right, without = verdicts(gate, folder, named, {"speech": [ASKED, SAID]})
    assert right.sample.task == "charts" and right.unread == ()
    assert without.why.reason == "malformed" and "'dialogue'" in without.why.detail


def test_without_a_model_nothing_is_counted(folder):
    gate = Gate(Rules.of(SETTINGS, None), folder)
    long, bad = verdicts(gate, folder, record("What is it? " * MAX_TOKENS), record(images=[data_url(PNG[:90])]))
    assert (long.facts.tokens, long.facts.learned, long.facts.sizes) == (0, 0, ((32, 16),))
    assert bad.why.reason == "broken-image"


@settings(max_examples=150)
@given(lines=st.lists(LINES, min_size=1, max_size=6))
def test_any_record_passes_or_has_a_reason(lines, gate, folder):
    for verdict in verdicts(gate, folder, *lines):
        assert verdict.passed == (verdict.facts is not None)
        told = [verdict.own_id, *verdict.unread]
        if verdict.passed:
            row = pa.Table.from_pylist([to_row(verdict.sample) | verdict.facts.to_row()], FEATURES.arrow_schema)
            assert from_row(row.to_pylist()[0]) == verdict.sample
        else:
            assert verdict.why.reason in typing.get_args(Reason) and verdict.why.detail
            told.append(verdict.why.detail)
        assert json.dumps(told, ensure_ascii=False).encode(), "what is told can be written"


def test_much_that_is_left_out_is_told_with_its_reason(take, tmp_path):
    lost = [record(f"Where is {number}?", images=["lost.png"]) for number in range(3)]
    (note,) = [note for note in take(pool=[record(), *lost]).warnings if "were left out" in note]
    assert note.startswith("pool: 3 of 4 records were left out (3 missing-image), such as record 1 of samples.jsonl")


def test_a_named_column_that_no_record_has_is_told(take):
    found = take(take.settings(columns={"task": "categry"}), pool=[record(photo="x")])
    assert any("data.columns names 'categry', and no record has such a column" in note for note in found.warnings)
