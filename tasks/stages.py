"""The stages by name, and the one way to run one."""

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from ost.errors import WorkspaceError
from ost.store import read_json
from ost.types import Progress, silent
from tasks.base import base
from tasks.choose import choose
from tasks.context import MANIFEST, Context, Outcome
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.rate import rate_deita, rate_judge, rate_less, rate_loss, rate_truth
from tasks.report import report
from tasks.score import score
from tasks.select import select
from tasks.sft import sft
from tasks.trial import trial
from tasks.warmup import warmup
from tasks.world import world

STAGES: dict[str, tuple[Callable[[Context], Outcome], str]] = {
    "world": (world, "world/manifest.json"),
    "base": (base, "models/{key}" + MANIFEST),
    "ingest": (ingest, "data/manifest.json"),
    "warmup": (warmup, "models/proxy-warm" + MANIFEST),
    "score": (score, "scores/manifest.json"),
    "select": (select, "selections/manifest.json"),
    "sft": (sft, "models/sft/{key}" + MANIFEST),
    "evaluate": (evaluate, "evaluations/{key}" + MANIFEST),
    "report": (report, "report/manifest.json"),
    "rate-loss": (rate_loss, "ratings/loss" + MANIFEST),
    "rate-less": (rate_less, "ratings/less" + MANIFEST),
    "rate-deita": (rate_deita, "ratings/deita" + MANIFEST),
    "rate-judge": (rate_judge, "ratings/judge" + MANIFEST),
    "rate-truth": (rate_truth, "ratings/truth" + MANIFEST),
    "choose": (choose, "selections/{key}" + MANIFEST),
    "trial": (trial, "trials/{key}" + MANIFEST),
}
"""Each stage's function, and where its manifest goes."""


def execute(stage: str, root: str | Path, progress: Progress = silent) -> dict:
    """Run a stage such as `score` or `sft@ost-B` in this process, and return its manifest.

    Raises WorkspaceError for an unknown stage or a missing input, and whatever error the stage itself raises.
    """
    name = stage.partition("@")[0]
    if name not in STAGES:
        raise WorkspaceError(f"no stage named {stage!r}; known: {', '.join(STAGES)}")
    function, manifest = STAGES[name]
    ctx = Context(Path(root), stage, progress)
    settle(ctx.params.compute.threads)
    started = datetime.datetime.now(datetime.UTC)
    outcome = function(ctx)
    return read_json(ctx.write_manifest(manifest.format(key=ctx.key), outcome, started))


def settle(threads: int) -> None:
    """Make this process quiet, and its arithmetic the same from run to run at the same number of CPU threads."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
