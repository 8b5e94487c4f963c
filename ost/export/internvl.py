"""InternVL: LLaVA's records with sizes, and a meta file. Read in OpenGVLab/InternVL, internvl_chat_finetune.py."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from ost.export.chat import MEDIA, alternates, marked, misread, spoken
from ost.export.form import Limit, without_loss
from ost.export.images import ImageFolder
from ost.export.kept import Row
from ost.export.lines import write_lines
from ost.export.survey import Survey
from ost.store import write_json

TRAINER = "InternVL"
DATA = "data.jsonl"
GUESSED = False
NAME = "subset"
LIMITS = (Limit("max_seq_length", 2048, "its end is cut, or another sample is drawn in its place"),)
TILES = 12
"""Its own default of max_dynamic_patch: tiles of a sample's images together."""

_MARKS = re.compile(MEDIA)
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def refusal(messages: Sequence[dict]) -> str | None:
    """See TrainerForm."""
    if found := misread(messages, _MARKS):
        return f"{TRAINER} takes {found} in its text for an image"
    if not alternates(messages):
        return f"{TRAINER} draws another sample in the place of one whose turns do not alternate"
    return None


def said(messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
    """See TrainerForm."""
    return without_loss(spoken(messages))


def write(rows: Iterable[Row], folder: Path, survey: Survey) -> None:
    """See TrainerForm."""
    images = ImageFolder(folder, survey.images)
    write_lines(folder / DATA, (_record(row, images) for row in rows))


def sidecar(folder: Path, out: Path, survey: Survey) -> list[str]:
    """See TrainerForm."""
    meta = {
        "root": str(out.resolve()),
        "annotation": str(out.resolve() / DATA),
        "data_augment": False,
        "max_dynamic_patch": TILES,
        "repeat_time": 1,
        "length": survey.samples,
    }
    write_json(folder / "meta.json", {NAME: meta})
    return [f"--meta_path {shlex.quote(str(out.resolve() / 'meta.json'))} --max_seq_length {survey.needed}"]


def notes(survey: Survey) -> list[str]:
    """See TrainerForm."""
    found = [
        f"{TRAINER} cuts images into tiles of its own, up to {TILES} a sample: it may take more tokens than counted"
    ]
    if count := survey.counts["context"]:
        found.append(f"{count:,} samples have answers that are context alone; {TRAINER} learns them too")
    return found


def _record(row: Row, images: ImageFolder) -> dict:
    """Images are always a list: of a single path it puts a mark of its own in front of the first turn."""
    paths = [images.add(image) for image in row.sample.images]
    sizes = {
        "image": paths,
        "width_list": [width for width, _ in row.sizes],
        "height_list": [height for _, height in row.sizes],
    }
    turns = [{"from": _SPEAKERS[turn["role"]], "value": marked(turn)} for turn in row.sample.messages]
    return row.told | (sizes if paths else {}) | {"conversations": turns}
