"""A selection written as a trainer loads it, or as the user's own records."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from ost.data import Dataset
from ost.errors import ConfigError, DataError
from ost.export.forms import forms
from ost.export.forms.form import Written
from ost.export.manifest import is_export
from ost.export.selected import Selected
from ost.store import publish, remove
from ost.types import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Exported(Written):
    """What was written, and where."""

    folder: Path
    form: str
    files: int
    bytes: int
    longest_tokens: int
    """Of the longest sample, by the target's own processor."""


def export(
    selection: pa.Table,
    pool: Dataset,
    form: str,
    out: str | Path,
    *,
    source: str | Path | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    image_roots: Sequence[str | Path] = (),
    train_on: str = "all",
    images: str = "copy",
    scores: pa.Table | None = None,
    everything: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write the samples that a selection keeps into the folder `out`, in one of FORMS.

    selection: N rows `id, rank, reason`. pool: the ingested pool that it was made from. For `same`, `source`,
    `columns`, `image_roots` and `train_on` are what the pool was ingested with; `images` is `copy`, or `leave` for
    those that lie beside the records. For `ids`, `scores` is the score table, and `everything` lists all of the pool.

    The folder appears whole or not at all; memory does not grow with the samples, but for some 500 bytes each. Samples
    stand in the pool's order, those of `ids` by rank. Raises ConfigError for a form that is none, and DataError where
    `out` is taken, where the selection or the source is not the pool's, or where nothing can be written.
    """
    out = Path(out)
    _check_form(form, source, images)
    _check_out(out, source, overwrite)
    selected = Selected.of(selection, pool)
    with publish(out) as folder, contextlib.ExitStack() as failed:
        failed.callback(remove, folder)  # since it may be large
        folder.mkdir()
        written = forms()[form].write(
            selected,
            folder,
            out,
            progress,
            source=source,
            columns=columns,
            image_roots=image_roots,
            train_on=train_on,
            images=images,
            scores=scores,
            everything=everything,
        )
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        failed.pop_all()
    measured = {"files": len(sizes), "bytes": sum(sizes), "longest_tokens": selected.longest}
    return Exported(folder=out, form=form, **measured, **vars(written))


def _check_form(form: str, source: object, images: str) -> None:
    if form not in forms():
        raise ConfigError(f"there is no form {form!r} to export; give one of {', '.join(forms())}")
    if images not in ("copy", "leave"):
        raise ConfigError(f"images are to be `copy` or `leave`; found {images!r}")
    if forms()[form].needs_source and source is None:
        raise ConfigError(
            f"the form `{form}` takes records from the source that the pool was ingested from: give it, data.pool"
        )


def _check_out(out: Path, source: str | Path | None, overwrite: bool) -> None:
    """Nothing that is not an export is ever overwritten, nor the source, nor anything written into it."""
    if source is not None and Path(source).exists():
        ours, theirs = out.resolve(), Path(source).resolve()
        if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
            raise DataError(f"{out} and the pool {source} lie in one another: name another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_export(out):
        raise DataError(f"{out} is there already and is no export, so it stays as it is: name another folder")
    if not overwrite:
        raise DataError(f"{out} holds an export already: name another folder, or say that it is to be overwritten")
