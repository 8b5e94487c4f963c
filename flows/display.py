"""What a person watches while stages run: a bar for each, then a line that stays."""

import os
import sys
from collections.abc import Iterable
from functools import partial
from time import monotonic

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ost.types import Progress


class PatientConsole(Console):
    """A terminal that goes quiet when nobody reads it any longer, as when a worker was killed and its run was not."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console = PatientConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120, highlight=False)
"""The terminal; a pipe, which has no width, gets lines of 120."""


def say(text: str) -> None:
    """Print a line as it is, however long."""
    console.print(text, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print, as one line, what a person should know."""
    console.print("[yellow]![/]", escape(text), soft_wrap=True)


def table(title: str, *texts: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table with columns of text, the first unbroken, and behind them columns of numbers."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(texts):
        made.add_column(name, no_wrap=not place)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    return made


EVERY = 30.0
"""Seconds between two lines of a stage's progress where there is no terminal, at least."""


class Display:
    """Progress bars on a terminal, elsewhere lines; and one line for each finished stage. Use as a context manager."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.fields[stage]:<24}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Bars(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._bars: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        """Stage → when a line was printed of its progress."""

    def __enter__(self) -> "Display":
        if console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *error) -> None:
        if console.is_terminal:
            self._progress.stop()

    def bar(self, stage: str) -> Progress:
        """The callback that advances a stage's bar."""
        return partial(self.advance, stage)

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Move a stage's bar on, which begins with its first call; a line at most EVERY seconds in its place."""
        if not console.is_terminal:
            self._tell(stage, done, total, note)
            return
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task("", stage=stage, note=note, total=total)
        self._progress.update(self._bars[stage], completed=done, total=total, note=note)

    def fail(self, stage: str) -> None:
        """Say that a stage has failed; the error itself is told by whoever catches it."""
        self._drop_bar(stage)
        console.print(f"[red]✗[/] {stage}")

    def finish(self, stage: str, manifest: dict | None) -> None:
        """Say that a stage is done: with its manifest, or None where it was up to date and not run."""
        self._drop_bar(stage)
        if manifest is None:
            console.print(f"[dim]=[/] {stage:<24} up to date, reused")
            return
        console.print(f"[green]✓[/] {stage:<24} {manifest['seconds']:6.1f} s  {_headline(manifest)}")
        for warning in manifest["warnings"]:
            console.print("  [yellow]![/]", escape(warning))

    def _tell(self, stage: str, done: int, total: int, note: str) -> None:
        """A line of a stage's progress, unless there was one just now; none where it is over with its first call."""
        last, now = self._told.get(stage), monotonic()
        if now - last < EVERY if last is not None else 0 < total <= done:
            return
        self._told[stage] = now
        say(f"  {stage:<24} {done:,}{f'/{total:,}' if total else ''} {note}".rstrip())

    def _drop_bar(self, stage: str) -> None:
        self._told.pop(stage, None)
        if stage in self._bars:
            self._progress.remove_task(self._bars.pop(stage))


def _headline(manifest: dict) -> str:
    shown = {name: value for name, value in manifest["metrics"].items() if "/" not in name}
    return "  ".join(f"{name} {value:.4g}" for name, value in list(shown.items())[:4])
