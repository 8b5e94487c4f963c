"""`ost export`: the chosen subset on its way out, and what its trainer would make of it."""

from pathlib import Path

import pyarrow as pa
from rich.markup import escape

from flows.display import Display, console
from ost.config import Data, load_params
from ost.data import Dataset
from ost.errors import ConfigError, WorkspaceError
from ost.export import Exported, check_limits, export, verify
from ost.store import read_table
from tasks.storage import is_remote


def export_selection(
    selection: Path, data: Path, form: str, out: Path, source: str | None, scores: Path, **options
) -> Exported:
    """Write a selection from the sample set `data` in a form, and print what was written and what comes next.

    `source`: the user's own pool; else the one that the params.yaml here names. `options`: as `ost.export.export` has
    them.
    """
    table, pool = _selection(selection), Dataset(data)
    own, reading = _reading(Path())
    display = Display()
    display.start()
    try:
        written = export(
            table,
            pool,
            form,
            out,
            source=source or own,
            columns=reading.columns,
            image_roots=reading.image_roots,
            train_on=reading.train_on,
            scores=read_table(scores) if scores.is_file() else None,
            progress=lambda done, total, note="": display.advance("export", done, total, note),
            **options,
        )
    finally:
        display.stop()
    for why, count in written.left_out.items():
        console.print("[yellow]![/]", escape(f"{count:,} left out: {why}"), highlight=False, soft_wrap=True)
    for note in written.notes:
        console.print("[yellow]![/]", escape(note), highlight=False, soft_wrap=True)
    size = f"{written.bytes / 1e6:,.1f} MB in {written.files:,} files"
    told = f"{written.samples:,} samples as `{form}`, {size}, the longest of {written.longest_tokens:,} tokens → {out}"
    console.print(told, highlight=False, soft_wrap=True)
    for command in written.commands:
        console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)
    return written


def verify_export(written: Exported, limits: dict[str, int | None]) -> None:
    """Read an export again, and print what its trainer's loader would lose; `limits`: its own options, changed."""
    display = Display()
    display.start()
    try:
        findings = verify(
            written.folder,
            limits,
            image_roots=_reading(Path())[1].image_roots,
            progress=lambda done, total, note="": display.advance("verify", done, total, note),
        )
    finally:
        display.stop()
    for found in findings:
        examples = f" (such as {', '.join(found.examples)})" if found.examples else ""
        told = f"{found.what}{examples}; {found.remedy}"
        console.print("[yellow]![/]", escape(told), highlight=False, soft_wrap=True)
    if not findings:
        console.print("verified: its trainer's loader would lose nothing", highlight=False)


def limits_of(form: str, assignments: list[str]) -> dict[str, int | None]:
    """A trainer's own options, such as cutoff_len=4096; raises ConfigError for one that it has not."""
    limits = dict(map(_limit, assignments))
    check_limits(form, limits)
    return limits


def _limit(assignment: str) -> tuple[str, int | None]:
    name, _, value = assignment.partition("=")
    if value != "null" and not value.isdigit():
        raise ConfigError(
            f"--limit takes the trainer's option and a number, such as cutoff_len=4096; found {assignment!r}"
        )
    return name, None if value == "null" else int(value)


def _selection(path: Path) -> pa.Table:
    """A selection table; raises WorkspaceError for a file that is none."""
    if not path.is_file():
        raise WorkspaceError(f"no selection at {path}: `ost curate --until select` or `ost select` makes one")
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise WorkspaceError(f"{path} is no Parquet file: {error}") from error
    missing = [name for name in ("id", "rank", "reason") if name not in table.column_names]
    if missing:
        raise WorkspaceError(f"{path} is no selection: it has no column {missing[0]}; `ost select` makes one")
    return table


def _reading(root: Path) -> tuple[str | None, Data]:
    """The pool that the params.yaml of a folder names, where there is one, and how it is read."""
    if not (root / "params.yaml").is_file():
        return None, Data()
    data = load_params(root / "params.yaml").data
    return str(_mirror(root, data.pool)) if is_remote(data.pool) else data.pool, data


def _mirror(root: Path, address: str) -> Path:
    """Where a source in object storage lies after ingestion: its file, or the folder of all under its prefix."""
    folder = root / ".ost/remote/pool"
    file = folder / address.rpartition("/")[2]
    return file if file.is_file() else folder
