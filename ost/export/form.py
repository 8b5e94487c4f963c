"""What a trainer's form is: how it says a sample, how it writes many, and what its trainer has to be told."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from ost.export.kept import Row
from ost.export.survey import Survey


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting of a trainer beyond which it loses or changes something of a sample."""

    option: str
    """The trainer's own name of it."""
    default: int | None
    """None: no limit, unless the model has one."""
    beyond: str
    """What becomes of a sample that goes beyond."""
    of: str = "tokens"
    """What it limits: `tokens` of a sample, or `pixels` of an image."""
    exact: bool = False
    """Whether the trainer counts as we do; else its template or resolution may take more."""


class TrainerForm(Protocol):
    """A module of this folder."""

    TRAINER: str
    """What messages call it."""
    LIMITS: Sequence[Limit]
    DATA: str
    """Where the records lie in the folder, "" for all of it: what is read to verify it."""

    GUESSED: bool
    """Whether its trainer guesses the records' types from the first of them."""

    def refusal(self, messages: Sequence[dict]) -> str | None:
        """Why the trainer could not take these messages as they are meant; None where it can."""

    def said(self, messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
        """The messages as they come back when the form is read, which may be less, or otherwise arranged."""

    def write(self, rows: Iterable[Row], folder: Path, survey: Survey) -> None:
        """Write samples, whose messages are `said`, into a folder; streamed."""

    def sidecar(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        """Write what the trainer is told into `folder`, which will stand at `out`; gives the commands to train with."""

    def notes(self, survey: Survey) -> list[str]:
        """What a person should know, beside what holds for every form."""


def run_in(folder: Path, line: str) -> str:
    """A command that runs a line in a folder: the sidecars' paths are relative, so that the folder can be moved."""
    return f"cd {shlex.quote(str(folder))} && {line}"


def write_yaml(path: Path, comment: str, settings: dict) -> None:
    """A trainer's configuration, with a comment above."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    path.write_text(lines + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")


def without_loss(messages: Sequence[dict]) -> list[dict]:
    """The messages without what says that a turn is not learned, for forms that cannot say it."""
    return [{key: value for key, value in turn.items() if key != "loss"} for turn in messages]
