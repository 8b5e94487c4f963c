"""The one way to run a stage."""

import datetime
import errno
import os
import pkgutil
from pathlib import Path

import torch
import transformers

from ost.errors import WorkspaceError
from ost.store import read_json
from ost.types import Progress, silent
from tasks.pipeline import manifest_path
from tasks.settings import load_params
from tasks.stages.context import Context

KINDS = ("world", "base", "ingest", "warmup", "score", "select", "sft", "trial", "evaluate", "report")
"""Kinds of stage: each a function of its name in the file of its name, loaded when it is run and not before."""

NO_ROOM = os.strerror(errno.ENOSPC)


def execute(stage: str, root: str | Path, progress: Progress = silent) -> dict:
    """Run a stage such as `ingest` or `sft-lookahead-20-B` in this process, and return its manifest.

    Raises WorkspaceError for an unknown stage, a missing input or a full disk, and what the stage itself raises.
    """
    kind = stage.partition("-")[0]
    if kind not in KINDS:
        raise WorkspaceError(f"no stage named {stage!r}; they are named by {', '.join(KINDS)} and a key")
    ctx = Context(Path(root), stage, load_params(Path(root) / "params.yaml"), progress)
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


def _is_full(error: Exception) -> bool:
    """Whether a disk, or what may be used of it, is full; safetensors has an error of its own for it."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or NO_ROOM in str(error)


def make_reproducible(threads: int) -> None:
    """Make this process quiet, and its arithmetic the same from run to run at the same number of CPU threads."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
