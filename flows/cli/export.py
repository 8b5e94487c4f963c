"""`ost export`: the chosen subset on its way out, and what its trainer would make of it."""

from pathlib import Path

import pyarrow as pa

from flows.display import Display, say, warn
from ost.data import Dataset
from ost.errors import ConfigError, WorkspaceError
from ost.export import Exported, check_limits, export, verify
from ost.settings import Data
from ost.store import read_table
from tasks.settings import load_params
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
    with Display() as display:
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
            progress=display.bar("export"),
            **options,
        )
    for note in [*(f"{count:,} left out: {why}" for why, count in written.left_out.items()), *written.notes]:
        warn(note)
    size = f"{written.bytes / 1e6:,.1f} MB in {written.files:,} files"
    say(f"{written.samples:,} samples as `{form}`, {size}, the longest of {written.longest_tokens:,} tokens → {out}")
    for command in written.commands:
        say(f"  {command}")
    return written


def verify_export(written: Exported, limits: dict[str, int | None]) -> None:
    """Read an export again, and print what its trainer's loader would lose; `limits`: its own options, changed."""
    roots = _reading(Path())[1].image_roots
    with Display() as display:
        findings = verify(written.folder, limits, image_roots=roots, progress=display.bar("verify"))
    for found in findings:
        examples = f" (such as {', '.join(found.examples)})" if found.examples else ""
        warn(f"{found.what}{examples}; {found.remedy}")
    if not findings:
        say("verified: its trainer's loader would lose nothing")


def limits_of(form: str, assignments: list[str]) -> dict[str, int | None]:
    """A trainer's own options, such as cutoff_len=4096; raises ConfigError for one that it has not."""
    limits = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if value != "null" and not value.isdigit():
            raise ConfigError(
                f"--limit takes the trainer's option and a number, such as cutoff_len=4096; found {assignment!r}"
            )
        limits[name] = None if value == "null" else int(value)
    check_limits(form, limits)
    return limits


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
    """The pool that the params.yaml of a folder names, where there is one, and how it is read.

    One in object storage lies where ingestion has mirrored it: its file, or the folder of all under its prefix.
    """
    if not (root / "params.yaml").is_file():
        return None, Data()
    data = load_params(root / "params.yaml").data
    if not is_remote(data.pool):
        return data.pool, data
    folder = root / ".ost/remote/pool"
    file = folder / data.pool.rpartition("/")[2]
    return str(file if file.is_file() else folder), data
