"""The one way to run a stage."""

import datetime
import errno
import functools
import operator
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from ost.errors import WorkspaceError
from ost.store import read_json
from ost.types import Progress, silent
from tasks.pipeline import manifest_path, stages_of
from tasks.plan import Plan
from tasks.settings import load_params, parse_params
from tasks.slots import Slots
from tasks.stages.context import Context
from tasks.stages.reproducible import make_reproducible

KINDS = ("world", "base", "ingest", "warmup", "score", "select", "sft", "trial", "evaluate", "report")
"""Kinds of stage: each a function of its name in the file of its name, loaded when it is run and not before."""

NO_ROOM = os.strerror(errno.ENOSPC)


def execute(stage: str, root: str | Path, progress: Progress = silent, slots: Slots | None = None) -> dict:
    """Run a stage such as `ingest` or `sft-lookahead-20-B` in this process, and return its manifest.

    `slots`: the devices of the run, of which this process has one, for a stage that can use more.
    Raises WorkspaceError for an unknown stage, a missing input or a full disk, and what the stage itself raises.
    """
    kind = stage.partition("-")[0]
    if kind not in KINDS:
        raise WorkspaceError(f"no stage named {stage!r}; they are named by {', '.join(KINDS)} and a key")
    ctx = Context(Path(root), stage, load_params(Path(root) / "params.yaml"), progress, slots)
    make_reproducible(ctx.params.compute.threads)
    function = pkgutil.resolve_name(f"tasks.stages.{'sft' if kind == 'trial' else kind}:{kind}")
    started = datetime.datetime.now(datetime.UTC)
    try:
        return read_json(ctx.write_manifest(manifest_path(stage), function(ctx), started))
    except Exception as error:
        if not _is_full(error):
            raise
        raise WorkspaceError(
            f"no room is left to write what {stage} makes ({error}): free some space, and run again; what is finished "
            "is kept"
        ) from error


def check_params(root: Path, manifest: dict) -> None:
    """Raises WorkspaceError where params.yaml says other parameters than those that a stage has just run with.

    DVC reads them once a stage has ended, and would take what was made with the old ones for what the new ones give.
    """
    ran_with, now = manifest["params"], load_params(root / "params.yaml").model_dump(mode="json")
    if now == ran_with:
        return
    stage = manifest["stage"]
    read = [name for one in stages_of(root, Plan(parse_params(ran_with))) if one.name == stage for name in one.params]
    if changed := [name for name in read if value_of(name, now) != value_of(name, ran_with)]:
        raise WorkspaceError(
            f"params.yaml changed while {stage} ran: {', '.join(changed)}. What it made is of the old parameters, and "
            "is not kept: run again"
        )


def value_of(name: str, params: Mapping) -> object:
    """The value of a parameter such as `sft.steps`, or of a whole section."""
    return functools.reduce(operator.getitem, name.split("."), params)


def _is_full(error: Exception) -> bool:
    """Whether a disk, or what may be used of it, is full; safetensors has an error of its own for it."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or NO_ROOM in str(error)
