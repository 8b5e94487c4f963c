"""LLaMA-Factory: ShareGPT with OpenAI's names, `dataset_info.json` beside it. Tried with LLaMA-Factory 0.9.5."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ost.export.chat import MEDIA, alternates, marked, misread, spoken
from ost.export.form import Limit, run_in, without_loss, write_yaml
from ost.export.images import ImageFolder
from ost.export.kept import Row
from ost.export.lines import told, write_lines
from ost.export.survey import Survey
from ost.store import write_json

TRAINER = "LLaMA-Factory"
DATA = "data.jsonl"
GUESSED = True
NAME = "subset"
"""What its configuration calls the dataset."""
MAX_PIXELS = 768 * 768
"""Its own default of image_max_pixels."""
LIMITS = (
    Limit("cutoff_len", 2048, "the end of the question is cut, and later turns vanish"),
    Limit("image_max_pixels", MAX_PIXELS, "images are shrunk before the processor sees them", of="pixels"),
)

_MARKS = re.compile(MEDIA + r"|\{\{(?:image|video|audio)\}\}")
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def refusal(messages: Sequence[dict]) -> str | None:
    """See TrainerForm."""
    if found := misread(messages, _MARKS):
        return f"{TRAINER} takes {found} in its text for an image"
    if not alternates(messages):
        return f"{TRAINER} drops a sample whose turns do not alternate"
    return None


def said(messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
    """See TrainerForm."""
    return without_loss(spoken(messages))


def write(rows: Iterable[Row], folder: Path, survey: Survey) -> None:
    """See TrainerForm."""
    images = ImageFolder(folder, survey.images)
    write_lines(folder / DATA, (_record(row, images, survey) for row in rows))


def sidecar(folder: Path, out: Path, survey: Survey) -> list[str]:
    """See TrainerForm."""
    columns = {"messages": "messages"} | ({"images": "images"} if survey.images else {})
    info = {"file_name": DATA, "formatting": "sharegpt", "columns": columns, "tags": _TAGS}
    write_json(folder / "dataset_info.json", {NAME: info})
    settings = {
        "stage": "sft",
        "do_train": True,
        "dataset": NAME,
        "dataset_dir": ".",
        "media_dir": ".",
        "cutoff_len": survey.needed,
        "image_max_pixels": max(MAX_PIXELS, survey.largest),
        "mask_history": survey.learns_last and not survey.learns_all,
    }
    line = "llamafactory-cli train sft.yaml model_name_or_path=MODEL template=TEMPLATE output_dir=../trained"
    room = f"{survey.kept.longest} tokens by the target's template; cutoff_len leaves room for another"
    write_yaml(folder / "sft.yaml", f"In this folder: {line}\nThe longest sample has {room}.", settings)
    return [run_in(out, line)]


def notes(survey: Survey) -> list[str]:
    """See TrainerForm."""
    if survey.learns_all or survey.learns_last:
        return []
    return [f"{survey.counts['context']:,} samples have answers that are context alone; {TRAINER} learns them too"]


def _record(row: Row, images: ImageFolder, survey: Survey) -> dict:
    turns = [{"role": turn["role"], "content": marked(turn)} for turn in row.sample.messages]
    record = told(row, survey) | {"messages": turns}
    if survey.images:
        record["images"] = [images.add(image) for image in row.sample.images]
    return record
