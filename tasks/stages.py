"""The stages by name, and the one way to run one."""

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
from tasks.context import MANIFEST, Context

STAGES: dict[str, tuple[str, str]] = {
    "world": ("tasks.world:world", "world/manifest.json"),
    "base": ("tasks.base:base", "models/{key}" + MANIFEST),
    "ingest": ("tasks.ingest:ingest", "data/manifest.json"),
    "warmup": ("tasks.warmup:warmup", "models/proxy-warm" + MANIFEST),
    "score": ("tasks.score:score", "scores/manifest.json"),
    "select": ("tasks.select:select", "selections/manifest.json"),
    "sft": ("tasks.sft:sft", "models/sft/{key}" + MANIFEST),
    "evaluate": ("tasks.evaluate:evaluate", "evaluations/{key}" + MANIFEST),
    "report": ("tasks.report:report", "report/manifest.json"),
    "rate-one-step": ("tasks.rate:rate_one_step", "ratings/one-step" + MANIFEST),
    "rate-lookahead": ("tasks.rate:rate_lookahead", "ratings/lookahead" + MANIFEST),
    "rate-loss": ("tasks.rate:rate_loss", "ratings/loss" + MANIFEST),
    "rate-color": ("tasks.rate:rate_color", "ratings/color" + MANIFEST),
    "rate-rho": ("tasks.rate:rate_rho", "ratings/rho" + MANIFEST),
    "rate-less": ("tasks.rate:rate_less", "ratings/less" + MANIFEST),
    "rate-deita": ("tasks.rate:rate_deita", "ratings/deita" + MANIFEST),
    "rate-judge": ("tasks.rate:rate_judge", "ratings/judge" + MANIFEST),
    "rate-rated": ("tasks.rate:rate_rated", "ratings/rated" + MANIFEST),
    "rate-truth": ("tasks.rate:rate_truth", "ratings/truth" + MANIFEST),
    "choose": ("tasks.choose:choose", "selections/{key}" + MANIFEST),
    "trial": ("tasks.trial:trial", "trials/{key}" + MANIFEST),
    "trial-anchored": ("tasks.trial:trial", "trials/{key}" + MANIFEST),
}
"""Each stage's function, loaded when it is run and not before, and where its manifest goes."""

NO_ROOM = os.strerror(errno.ENOSPC)


def execute(stage: str, root: str | Path, progress: Progress = silent) -> dict:
    """Run a stage such as `score` or `sft@ost-B` in this process, and return its manifest.

    Raises WorkspaceError for an unknown stage, a missing input or a full disk, and what the stage itself raises.
    """
    name = stage.partition("@")[0]
    if name not in STAGES:
        raise WorkspaceError(f"no stage named {stage!r}; known: {', '.join(STAGES)}")
    function, manifest = STAGES[name]
    ctx = Context(Path(root), stage, progress)
    settle(ctx.params.compute.threads)
    started = datetime.datetime.now(datetime.UTC)
    try:
        outcome = pkgutil.resolve_name(function)(ctx)
        return read_json(ctx.write_manifest(manifest.format(key=ctx.key), outcome, started))
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


def settle(threads: int) -> None:
    """Make this process quiet, and its arithmetic the same from run to run at the same number of CPU threads."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
