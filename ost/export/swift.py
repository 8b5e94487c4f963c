"""ms-swift: `messages` with marks, `images` beside them, and `loss` on a turn. Tried with ms-swift 4.6."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ost.export.chat import MEDIA, alternates, marked, misread, spoken
from ost.export.form import Limit, run_in, write_yaml
from ost.export.images import ImageFolder
from ost.export.kept import Row
from ost.export.lines import write_lines
from ost.export.survey import Survey

TRAINER = "ms-swift"
DATA = "data.jsonl"
GUESSED = True
LIMITS = (Limit("max_length", None, "another sample is drawn in the place of one that is longer"),)

_MARKS = re.compile(rf"{MEDIA}|<img>.+?</img>")


def refusal(messages: Sequence[dict]) -> str | None:
    """See TrainerForm."""
    if found := misread(messages, _MARKS):
        return f"{TRAINER} takes {found} in its text for an image"
    if not alternates(messages):
        return f"{TRAINER} joins or fills up turns that do not alternate"
    return None


def said(messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
    """See TrainerForm."""
    return spoken(messages)


def write(rows: Iterable[Row], folder: Path, survey: Survey) -> None:
    """See TrainerForm. No id is written: other columns are dropped, and some names have a meaning."""
    images = ImageFolder(folder, survey.images)
    told = bool(survey.counts["context"])
    write_lines(folder / DATA, (_record(row, images, told, survey) for row in rows))


def sidecar(folder: Path, out: Path, survey: Survey) -> list[str]:
    """See TrainerForm."""
    settings = {
        "dataset": [DATA],
        "max_length": survey.needed,
        "truncation_strategy": "delete",
        "strict": True,
        "split_dataset_ratio": 0,
        "load_from_cache_file": False,
    }
    line = "swift sft sft.yaml --model MODEL --output_dir ../trained"
    room = f"{survey.kept.longest} tokens by the target's template; max_length leaves room for another"
    write_yaml(folder / "sft.yaml", f"In this folder: {line}\nThe longest sample has {room}.", settings)
    return [run_in(out, line)]


def notes(survey: Survey) -> list[str]:
    """See TrainerForm."""
    return ["image paths start from the folder itself: run ms-swift there, or set ROOT_IMAGE_DIR to it"]


def _record(row: Row, images: ImageFolder, told: bool, survey: Survey) -> dict:
    turns = [{"role": turn["role"], "content": marked(turn)} for turn in row.sample.messages]
    if told:
        for turn, message in zip(turns, row.sample.messages, strict=True):
            if turn["role"] == "assistant":
                turn["loss"] = message.get("loss") is not False
    record: dict = {"messages": turns}
    if survey.images:
        record["images"] = [images.add(image) for image in row.sample.images]
    return record
