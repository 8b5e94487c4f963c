"""Qwen-VL finetune: `image` and `conversations` as LLaVA's. Read in QwenLM/Qwen3-VL, qwen-vl-finetune."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ost.export.chat import MEDIA, marked, misread, spoken
from ost.export.form import Limit, without_loss
from ost.export.images import ImageFolder
from ost.export.kept import Row
from ost.export.lines import write_lines
from ost.export.survey import Survey

TRAINER = "Qwen-VL finetune"
DATA = "data.jsonl"
GUESSED = False
MAX_PIXELS = 28 * 28 * 576
"""Its own default of max_pixels, which it puts in the place of the processor's."""
LIMITS = (
    Limit("model_max_length", 512, "the end of the sample is cut, its answer with it"),
    Limit("max_pixels", MAX_PIXELS, "images are shrunk, whatever the processor's own setting", of="pixels"),
)

_MARKS = re.compile(MEDIA)
_SPEAKERS = {"user": "human", "assistant": "gpt"}
_SNIPPET = '''"""The subset for Qwen-VL finetune: put this entry into data_dict of qwenvl/data/__init__.py."""

SUBSET = {{"annotation_path": {data!r}, "data_path": {out!r}}}
# data_dict = {{..., "subset": SUBSET}}
# and train with: --dataset_use subset --model_max_length {length} --max_pixels {pixels}
'''


def refusal(messages: Sequence[dict]) -> str | None:
    """See TrainerForm."""
    if found := misread(messages, _MARKS):
        return f"{TRAINER} takes {found} in its text for an image"
    if any(turn["role"] == "system" for turn in messages[1:]):
        return f"{TRAINER} learns a system turn as an answer, and this one is not the first"
    return None


def said(messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
    """See TrainerForm. It takes whoever is not `human` for the model, so a system turn opens the first question."""
    turns = without_loss(spoken(messages))
    if turns[0]["role"] != "system":
        return turns
    system, *rest = turns
    first = next(at for at, turn in enumerate(rest) if turn["role"] == "user")
    opened = [*system["content"], {"type": "text", "text": "\n\n"}, *rest[first]["content"]]
    return spoken([*rest[:first], {"role": "user", "content": opened}, *rest[first + 1 :]])


def write(rows: Iterable[Row], folder: Path, survey: Survey) -> None:
    """See TrainerForm."""
    images = ImageFolder(folder, survey.images)
    write_lines(folder / DATA, (_record(row, images) for row in rows))


def sidecar(folder: Path, out: Path, survey: Survey) -> list[str]:
    """See TrainerForm."""
    pixels = max(MAX_PIXELS, survey.largest)
    here = out.resolve()
    text = _SNIPPET.format(out=str(here), data=str(here / DATA), length=survey.needed, pixels=pixels)
    (folder / "data_dict.py").write_text(text, encoding="utf-8")
    return [f"--dataset_use subset --model_max_length {survey.needed} --max_pixels {pixels}"]


def notes(survey: Survey) -> list[str]:
    """See TrainerForm."""
    found = ["max_pixels replaces the processor's own: give the target's, if that is lower"]
    if count := survey.counts["system"]:
        found.append(f"the system turns of {count:,} samples open their first questions: {TRAINER} would learn them")
    if count := survey.counts["context"]:
        found.append(f"{count:,} samples have answers that are context alone; {TRAINER} learns them too")
    return found


def _record(row: Row, images: ImageFolder) -> dict:
    paths = [images.add(image) for image in row.sample.images]
    image = {"image": paths[0] if len(paths) == 1 else paths} if paths else {}
    turns = [{"from": _SPEAKERS[turn["role"]], "value": marked(turn)} for turn in row.sample.messages]
    return row.told | image | {"conversations": turns}
