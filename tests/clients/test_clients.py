"""What we export is loaded by the real clients' own code, each in an environment of its own: `make clients`."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from checkpoint import IMAGE_TOKENS, save_checkpoint
from environments import run
from export_pools import keeping, pool_of
from PIL import Image

from ost.data import Sample
from ost.export import export

TRAINERS = {"trl": "trl", "ms_swift": "ms-swift", "llamafactory": "llamafactory"}
READERS = {"webdataset": "webdataset", "energon": "webdataset"}
"""The form that each client is given."""
ENDS = re.compile(r"</s>|<\|im_end\|>|\n")
"""What their templates put behind an answer and let be learned."""
WIDE, TALL = (64, 32), (32, 64)
RED, BLUE, WHITE = (254, 0, 0), (0, 0, 254), (255, 255, 255)


def exported(samples: Sequence[Sample], form: str, folder: Path) -> Path:
    """A folder with these samples in a trainer's form."""
    pool = pool_of(folder.with_name("pool"), [(sample, at) for at, sample in enumerate(samples)], [60] * len(samples))
    export(keeping(pool), pool, form, folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llava")


@pytest.mark.parametrize(
    ("client", "rounds"), [("trl", "several"), ("trl", "one"), ("ms_swift", "several"), ("llamafactory", "several")]
)
def test_a_trainer_learns_every_answer_of_every_sample_and_nothing_else(client, rounds, checkpoint, tmp_path):
    """TRL's form is another one where no sample has several rounds."""
    samples = [sample for sample in SAMPLES if rounds == "several" or len(sample.learned) == 1]
    told = run(client, exported(samples, TRAINERS[client], tmp_path / "out"), checkpoint)
    assert told["samples"] == len(samples) and not told.get("cut") and not told.get("replaced")
    assert math.isfinite(told["loss"]) and told["loss"] > 0
    for row, sample in zip(told["rows"], samples, strict=True):
        assert images_of(row) == LOOKS[sample.id]
        assert turns_in_order(row["text"], sample)
        answers = [spelled(turn) for turn in sample.messages if turn["role"] == "assistant"]
        assert ENDS.sub("", row["learned"]) == "".join(answers)


@pytest.mark.parametrize("client", READERS)
def test_a_reader_of_tars_sees_every_sample_whole(client, tmp_path):
    told = run(client, exported(SAMPLES, READERS[client], tmp_path / "out"))
    assert told["samples"] == len(SAMPLES) and not told["dropped"]
    for row, sample in zip(told["rows"], SAMPLES, strict=True):
        assert images_of(row) == LOOKS[sample.id]
        assert row["record"]["messages"] == list(sample.messages)


@pytest.mark.parametrize(
    ("client", "option", "lost"),
    [("trl", "max_length", "cut"), ("ms_swift", "max_length", "replaced"), ("llamafactory", "cutoff_len", "cut")],
)
def test_a_length_that_is_too_short_is_seen(client, option, lost, checkpoint, tmp_path):
    """Else the test above could not fail: each client loses the long sample, and none ends with an error."""
    pair = [TEXT_ONLY, LONG]
    folder = exported(pair, TRAINERS[client], tmp_path / "out")
    told = run(client, folder, checkpoint)
    assert not told.get(lost)  # the option as it was exported
    options = yaml.safe_load((folder / "sft.yaml").read_text())
    short = {option: told["rows"][1]["tokens"] - 1} | ({"strict": False} if "strict" in options else {})
    (folder / "sft.yaml").write_text(yaml.safe_dump(options | short))
    assert [int(n) for n in run(client, folder, checkpoint)[lost]] == [1]


def images_of(row: dict) -> list[tuple]:
    return [(tuple(image["size"]), tuple(image["colour"])) for image in row["images"]]


def turns_in_order(text: str, sample: Sample) -> bool:
    """Whether a rendered text has the sample's turns one behind the other, and as many image tokens as it should."""
    rest = text.replace("<image>" * IMAGE_TOKENS, "\0")
    rest = rest.replace("\0\n", "\0")  # which some templates put behind an image
    for turn in sample.messages:
        _, found, rest = rest.partition(spelled(turn))
        if not found:
            return False
    return "<image>" not in rest and text.count("<image>") == IMAGE_TOKENS * len(sample.images)


def spelled(turn: dict) -> str:
    """A turn's text, with a mark for each image."""
    return "".join("\0" if part["type"] == "image" else part["text"] for part in turn["content"])


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def turn(role: str, *parts: str | None) -> dict:
    """A message; None stands for an image."""
    content = [{"type": "text", "text": part} if part else {"type": "image", "text": None} for part in parts]
    return {"role": role, "content": content}


def _lying() -> bytes:
    """A photograph whose pixels lie on their side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", WIDE, "red"), "JPEG", exif=exif)


ONE_IMAGE = Sample(
    (encoded(Image.new("RGB", WIDE, RED)),), (turn("user", None, "What colour?"), turn("assistant", "red"))
)
TWO_IMAGES = Sample(
    (encoded(Image.new("RGB", WIDE, RED)), encoded(Image.new("RGB", TALL, BLUE))),
    (
        turn("system", "Be brief."),
        turn("user", "First ", None, " then ", None, ": which is taller?"),
        turn("assistant", "the second"),
    ),
)
TEXT_ONLY = Sample((), (turn("user", "How much is 3 + 4?"), turn("assistant", "007")))
TWO_TURNS = Sample(
    (encoded(Image.new("RGB", TALL, BLUE)),),
    (turn("user", None, "What colour?"), turn("assistant", "blue"), turn("user", "Sure?"), turn("assistant", "yes")),
)
ODD_IMAGES = Sample(
    (_lying(), encoded(Image.new("RGBA", WIDE, (0, 0, 0, 0)))),
    (turn("user", None, None, "What are these?"), turn("assistant", "a tall red photograph, and nothing on white")),
)
LONG = Sample((), (turn("user", "Which word is it? " + "word " * 20), turn("assistant", "the word is word")))
SAMPLES = (ONE_IMAGE, TWO_IMAGES, TEXT_ONLY, TWO_TURNS, ODD_IMAGES)
LOOKS = {
    ONE_IMAGE.id: [(WIDE, RED)],
    TWO_IMAGES.id: [(WIDE, RED), (TALL, BLUE)],
    TEXT_ONLY.id: [],
    TWO_TURNS.id: [(TALL, BLUE)],
    ODD_IMAGES.id: [(TALL, RED), (WIDE, WHITE)],
}
"""Size and colour of each sample's images, as a person sees them."""
