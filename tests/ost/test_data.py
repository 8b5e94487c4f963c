"""The data contract: digests that say what the content is, and tables that give back what was put in."""

import io
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ost.data import Dataset, Sample, chat, content_digest, sample_id, write_samples

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SAMPLES = st.builds(
    lambda images, question, answer, task: Sample(tuple(images), chat(question, answer, len(images)), task),
    images=st.lists(st.binary(max_size=30), max_size=3),
    question=TEXT,
    answer=TEXT,
    task=TEXT,
)


def png(value: int = 0) -> bytes:
    """A PNG of 4 × 4 grey pixels, the first of them `value`."""
    pixels = np.full((4, 4), 100, np.uint8)
    pixels[0, 0] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@settings(max_examples=30)
@given(samples=st.lists(SAMPLES, max_size=4))
def test_written_samples_are_read_back_whole(samples, tmp_path_factory):
    path = write_samples(tmp_path_factory.mktemp("data") / "samples.parquet", samples)
    assert list(Dataset(path)) == samples
    assert not path.with_name("samples.parquet.part").exists()


def test_reading_crosses_row_groups(tmp_path):
    samples = [Sample((), chat("q", str(index), images=0)) for index in range(1501)]
    path = write_samples(tmp_path / "samples.parquet", samples)
    assert pq.ParquetFile(path).num_row_groups == 2
    assert [sample.answer for sample in Dataset(path)] == [str(index) for index in range(1501)]


@settings(max_examples=30)
@given(sample=SAMPLES)
def test_a_read_sample_has_the_digest_of_its_content(sample, tmp_path_factory):
    path = write_samples(tmp_path_factory.mktemp("data") / "samples.parquet", [sample])
    (back,) = Dataset(path)
    assert back.id == sample_id(back.images, back.messages), "the stored form must not change what is digested"


def test_id_is_the_same_on_every_machine():
    """A literal from one machine: it changes only with the digest's definition, and then all stored ids are stale."""
    sample = Sample((b"\x89PNG",), chat("Wie groß?", "3 m²"))
    assert sample.id == "9af76c1ba5ccc8f36206324a803ce0b7"
    program = (
        "from ost.data import Sample, chat; "
        r"print(Sample((b'\x89PNG',), chat('Wie gro\u00df?', '3 m\u00b2'), task='other').id)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == sample.id


def test_id_does_not_depend_on_the_task():
    assert Sample((png(),), chat("q", "a"), task="sum").id == Sample((png(),), chat("q", "a"), task="product").id


def test_id_does_not_depend_on_how_an_image_part_is_spelled():
    bare = ({"role": "user", "content": [{"type": "image"}]}, chat("", "a")[1])
    stored = ({"role": "user", "content": [{"text": None, "type": "image"}]}, chat("", "a")[1])
    assert sample_id([png()], bare) == sample_id([png()], stored)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(Sample((png(1),), chat("q?", "a")), id="one pixel"),
        pytest.param(Sample((png(),), chat("q!", "a")), id="one character of the question"),
        pytest.param(Sample((png(),), chat("q?", "a ")), id="one blank of the answer"),
        pytest.param(Sample((png(), png()), chat("q?", "a", images=2)), id="one image more"),
        pytest.param(Sample((png(),), tuple(reversed(chat("q?", "a")))), id="another order of turns"),
    ],
)
def test_id_changes_with_the_content(changed):
    assert changed.id != Sample((png(),), chat("q?", "a")).id


def test_id_knows_which_image_comes_first():
    assert sample_id([png(1), png(2)], chat("q", "a", 2)) != sample_id([png(2), png(1)], chat("q", "a", 2))


def test_question_and_answer_are_the_text_before_and_in_the_last_turn():
    turns = (*chat("first?", "one"), *chat("second?", "two", images=0))
    sample = Sample((png(),), turns)
    assert (sample.question, sample.answer) == ("first?\none\nsecond?", "two")


def test_content_digest_is_of_a_set():
    assert content_digest(["a", "b"]) == content_digest(["b", "a"])
    assert content_digest(["a", "b"]) != content_digest(["a", "c"])
    assert content_digest(["a"]) != content_digest(["a", "a"])
