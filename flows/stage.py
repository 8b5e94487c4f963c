"""One stage by itself: `python -m flows.stage score`. This is the command of every stage in dvc.yaml."""

import sys
from pathlib import Path

from flows.display import Display
from ost.errors import OSTError
from ost.store import digest
from tasks.pipeline import write_pipeline
from tasks.settings import load_params
from tasks.slots import own_device
from tasks.stages.context import git_state
from tasks.stages.run import execute
from tasks.tracking import Tracker


def run(stage: str, root: Path) -> dict:
    """Run a stage, record it in MLflow as `dvc` would have it, and return its manifest."""
    compute = load_params(root / "params.yaml").compute
    with Display() as display, own_device(stage, root, compute) as slots:
        manifest = execute(stage, root, display.bar(stage), slots)
    display.finish(stage, manifest)
    if stage == "ingest":  # which finds out what lies beside its sources
        write_pipeline(root)
    _record(manifest, root)
    return manifest


def _record(manifest: dict, root: Path) -> None:
    tracker = Tracker(root, load_params(root / "params.yaml"))
    parent = tracker.join(git_state(root), "dvc", digest(root / "params.yaml"))
    tracker.record(manifest, parent)
    if manifest["stage"] == "report":
        tracker.close(parent)


if __name__ == "__main__":
    try:
        run(sys.argv[1], Path.cwd())
    except OSTError as error:
        sys.exit(f"error: {error}")
