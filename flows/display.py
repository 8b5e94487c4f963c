"""What a person watches while stages run: a bar for each, then a line that stays."""

import os
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class PatientConsole(Console):
    """One that goes quiet when nobody reads it any longer, such as a worker that was killed: the run is not over."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console = PatientConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
"""The terminal; a pipe, which has no width, gets lines of 120."""


class Display:
    """Progress bars on a terminal; elsewhere one line for each finished stage."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.fields[stage]:<18}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._bars: dict[str, TaskID] = {}

    def start(self) -> None:
        """Begin to draw."""
        self._progress.start()

    def stop(self) -> None:
        """Take the bars away."""
        self._progress.stop()

    def advance(self, stage: str, done: int, total: int, note: str = "") -> None:
        """A stage has got on."""
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task("", stage=stage, note=note, total=total)
        self._progress.update(self._bars[stage], completed=done, total=total, note=note)

    def fail(self, stage: str) -> None:
        """A stage has failed; the error itself is told by whoever catches it."""
        self._drop_bar(stage)
        console.print(f"[red]✗[/] {stage}", highlight=False)

    def finish(self, stage: str, manifest: dict | None) -> None:
        """A stage is done: with its manifest, or None where it was up to date and not run."""
        self._drop_bar(stage)
        if manifest is None:
            console.print(f"[dim]=[/] {stage:<18} up to date, reused", highlight=False)
            return
        console.print(f"[green]✓[/] {stage:<18} {manifest['seconds']:6.1f} s  {_headline(manifest)}", highlight=False)
        for warning in manifest["warnings"]:
            console.print("  [yellow]![/]", escape(warning))

    def warn_of_records(self, count: int) -> None:
        """Say how much the record could not take, if it could not take all."""
        if count:
            console.print(
                f"[yellow]![/] MLflow does not answer: {count} records are kept in .ost/outbox, and the next run here "
                "delivers them"
            )

    def _drop_bar(self, stage: str) -> None:
        if stage in self._bars:
            self._progress.remove_task(self._bars.pop(stage))


def _headline(manifest: dict) -> str:
    shown = {name: value for name, value in manifest["metrics"].items() if "/" not in name}
    return "  ".join(f"{name} {value:.4g}" for name, value in list(shown.items())[:4])
