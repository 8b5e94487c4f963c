"""What trainers' forms share: how they say a sample, how they write many, and what a trainer has to be told."""

import itertools
import json
import re
import shlex
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import yaml

from ost.data import Sample
from ost.errors import DataError
from ost.export.forms.form import SHOWN, Form, Written
from ost.export.images import ImageFolder, as_seen
from ost.export.manifest import Manifest
from ost.export.selected import Row, Selected, Survey, survey
from ost.types import Progress

MARK = "<image>"
"""Stands in the text where an image belongs, in every text dialect."""

MEDIA = r"<image>|<video>|<audio>"
"""What a text dialect's reader takes for media, wherever it stands."""

_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""What some readers, such as Python's splitlines, take for the end of a line."""

Item = TypeVar("Item")


class TrainerForm(Form):
    """A form that one trainer loads by itself."""

    guessed = False
    """Whether its trainer guesses the records' types from the first of them."""

    def said(self, messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
        """The messages as they come back when the form is read, which may be less, or otherwise arranged."""
        return messages

    @abstractmethod
    def write_samples(self, rows: Iterable[Row], folder: Path, survey: Survey) -> None:
        """Write samples, whose messages are `said`, into a folder; streamed."""

    @abstractmethod
    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        """Write what the trainer is told into `folder`, which will stand at `out`; gives the commands to train with."""

    def says_context(self, survey: Survey) -> bool:
        """Whether its trainer learns none of the answers that are context alone."""
        return not survey.with_context

    def notes(self, survey: Survey) -> list[str]:
        """What a person should know, beside what holds for every form: if answers are learned that are context."""
        if not survey.with_context:
            return []
        return [f"{survey.with_context:,} samples have answers that are context alone; {self.trainer} learns them too"]

    def write(self, selected: Selected, folder: Path, out: Path, progress: Progress, **options) -> Written:
        """See Form. Raises DataError where the form can say none of the samples."""
        progress(0, len(selected), "reading the turns")
        found = survey(selected, self.refusal, self.guessed)
        left_out = _reasons(found.left_out)
        if not len(found.selected):
            raise DataError(f"{self.trainer} can take none of the {len(selected):,} samples: {left_out}")
        if selected.masks and not self.says_context(found):
            raise DataError(
                f"the selection masks turns of {len(selected.masks):,} samples, and {self.trainer} would learn them: "
                "take a form whose trainer is told which answers to learn, ms-swift or webdataset, or select by sample "
                "(select.unit)"
            )
        changed: dict[str, str] = {}
        redrawn: list[int] = []
        self.write_samples(self._rows(found, changed, redrawn, progress), folder, found)
        commands = self.write_settings(folder, out, found)
        count = len(found.selected)
        Manifest(self.name, count, found.selected.longest).write(folder, selected, changed, found.left_out)
        notes = [f"{len(found.left_out):,} samples were left out: {left_out}"] if left_out else []
        if redrawn:
            notes.append(
                f"{sum(redrawn):,} images are turned by EXIF, transparent or of more than 8 bits, which trainers' "
                "loaders ignore: they are written anew, as a person sees them"
            )
        return Written(count, notes + self.notes(found), commands, Counter(found.left_out.values()))

    def _rows(self, found: Survey, changed: dict[str, str], redrawn: list[int], progress: Progress) -> Iterator[Row]:
        """The rows, with messages as the form says them, and images as a person sees them, under the pool's ids.

        Fills `changed`, id in the pool → id as written, where that is another, and `redrawn`, how many images of a
        sample were written anew.
        """
        for done, row in enumerate(found.selected.rows(), start=1):
            old = row.sample
            images = tuple(map(as_seen, old.images))
            messages = tuple(self.said(old.messages, found))
            if anew := sum(new is not image for new, image in zip(images, old.images, strict=True)):
                redrawn.append(anew)
            if anew or messages != old.messages or old.id in found.selected.masks:
                changed[old.id] = Sample(images, messages).id
            yield Row(Sample(images, messages, old.task, old.id), row.sizes, row.own_id)
            progress(done, len(found.selected), "writing samples")


class TextForm(TrainerForm):
    """Records as JSON lines, with marks in their text that stand for image files beside them.

    `datasets` takes the types of JSON lines from the first 10 MB: a list that is empty there, or a key that is absent,
    breaks the loading of all (tried: datasets 4.0 and 4.8). So an image comes early, and where types are guessed all
    lines have the same keys.
    """

    data = "data.jsonl"
    marks = re.compile(MEDIA)
    """What its trainer takes for an image in a text."""
    unless_alternating: str = ""
    """What its trainer does with a sample whose turns do not alternate; "" where it takes it."""

    @abstractmethod
    def record(self, row: Row, images: list[str], survey: Survey) -> dict:
        """A sample as a record; `images`: paths of its images, relative to the folder."""

    def refusal(self, messages: Sequence[dict]) -> str | None:
        if found := misread(messages, self.marks):
            return f"{self.trainer} takes {found} in its text for an image"
        if self.unless_alternating and not alternates(messages):
            return f"{self.trainer} {self.unless_alternating}"
        return None

    def said(self, messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
        return without_loss(spoken(messages))

    def write_samples(self, rows: Iterable[Row], folder: Path, survey: Survey) -> None:
        images = ImageFolder(folder, survey.images)
        with (folder / self.data).open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                record = self.record(row, [images.add(image) for image in row.sample.images], survey)
                file.write(json.dumps(record, ensure_ascii=False).translate(_BREAKS) + "\n")


def spoken(messages: Sequence[dict]) -> list[dict]:
    """The turns as a text dialect holds them, still in the chat form: reasoning in the text, neighbouring texts joined.

    A reasoning stands before its answer, as templates of thinking models write it.
    """
    return [_spoken(turn) for turn in messages]


def marked(messages: Sequence[dict]) -> list[tuple[str, str]]:
    """Role and text of each spoken turn, with a mark in the text for each image."""
    return [
        (turn["role"], "".join(MARK if part["type"] == "image" else part["text"] for part in turn["content"]))
        for turn in messages
    ]


def misread(messages: Sequence[dict], marks: re.Pattern) -> str | None:
    """The first piece of the turns' own text that a reader would take for a mark; None where there is none."""
    for turn in messages:
        # A mark may lie across two neighbouring parts, but not across an image.
        text = "".join("\0" if part["type"] == "image" else part["text"] for part in turn["content"])
        if found := marks.search(text) or marks.search(turn.get("reasoning_content") or ""):
            return found[0]
    return None


def alternates(messages: Sequence[dict]) -> bool:
    """Whether user and assistant take turns, after at most one system turn at the start."""
    roles = [turn["role"] for turn in messages]
    own = roles[1:] if roles[0] == "system" else roles
    return own == ["user", "assistant"] * (len(own) // 2)


def cut(items: Iterable[Item], size: Callable[[Item], int], most: int) -> Iterator[Iterator[Item]]:
    """Consecutive items, as many together as have no more than so many bytes, or one alone; streamed."""

    def numbered() -> Iterator[tuple[int, Item]]:
        number = total = 0
        for item in items:
            own = size(item)
            if total and total + own > most:
                number, total = number + 1, 0
            total += own
            yield number, item

    for _, together in itertools.groupby(numbered(), key=lambda pair: pair[0]):
        yield (item for _, item in together)


def write_sft_yaml(folder: Path, settings: dict, line: str, longest: str) -> None:
    """Write a trainer's configuration as sft.yaml, with the line that it is used by, and the longest length."""
    comment = f"# In this folder: {line}\n# The longest sample has {longest}.\n"
    text = comment + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (folder / "sft.yaml").write_text(text, encoding="utf-8")


def run_in(folder: Path, line: str) -> list[str]:
    """The command that runs a line in a folder: the settings' paths are relative, so that the folder can be moved."""
    return [f"cd {shlex.quote(str(folder))} && {line}"]


def without_loss(messages: Sequence[dict]) -> list[dict]:
    """The messages without what says that a turn is not learned, for forms that cannot say it."""
    return [{key: value for key, value in turn.items() if key != "loss"} for turn in messages]


def _reasons(left_out: dict[str, str]) -> str:
    """Why samples were left out, each with how many, and which, for example."""
    parts = []
    for why, count in Counter(left_out.values()).most_common():
        names = [name for name, own in left_out.items() if own == why][:SHOWN]
        parts.append(f"{why} ({count:,}: {', '.join(names)}{' …' if count > SHOWN else ''})")
    return "; ".join(parts)


def _spoken(turn: dict) -> dict:
    parts: list[dict] = []
    thought = turn.get("reasoning_content")
    content = [{"type": "text", "text": f"<think>\n{thought}\n</think>\n\n"}] if thought else []
    for kind, group in itertools.groupby([*content, *turn["content"]], key=lambda part: part["type"]):
        if kind == "image":
            parts += [{"type": "image", "text": None} for _ in group]
        elif text := "".join(part["text"] for part in group):
            parts.append({"type": "text", "text": text})
    said = {"role": turn["role"], "content": parts or [{"type": "text", "text": ""}]}
    return said | ({"loss": False} if turn.get("loss") is False else {})
