"""One stage by itself: `python -m flows.stage score`. This is the command of every stage in dvc.yaml."""

import sys
from pathlib import Path

from flows.display import Display
from ost.config import load_params
from ost.errors import OSTError
from ost.store import digest
from tasks.context import git_state
from tasks.pipeline import watch_inputs
from tasks.stages import execute
from tasks.tracking import Tracker


def run(stage: str, root: Path) -> dict:
    """Run a stage, record it in MLflow as `dvc` would have it, and return its manifest."""
    display = Display()
    display.start()
    try:
        manifest = execute(stage, root, lambda done, total, note="": display.advance(stage, done, total, note))
    finally:
        display.stop()
    display.finish(stage, manifest)
    watch_inputs(root, load_params(root / "params.yaml"), manifest)
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
