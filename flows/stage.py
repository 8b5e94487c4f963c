"""One stage by itself: `python -m flows.stage score`. This is the command of every stage in dvc.yaml."""

import sys
from pathlib import Path

from flows.display import Display, warn
from flows.lock import claim
from ost.errors import OSTError
from ost.store import digest
from tasks.pipeline import write_pipeline
from tasks.record.outbox import Outbox
from tasks.settings import load_params
from tasks.slots import own_device
from tasks.stages.context import git_state
from tasks.stages.run import check_params, execute
from tasks.tracking import Tracker, opening, sweep_downloads


def run(stage: str, root: Path) -> dict:
    """Run a stage, record it in MLflow as `dvc` would have it, and return its manifest.

    Raises WorkspaceError while a flow is at work in the workspace.
    """
    compute = load_params(root / "params.yaml").compute
    with claim(root / ".ost/lock"):
        sweep_downloads(root)
        with Display() as display, own_device(stage, root, compute) as slots:
            manifest = execute(stage, root, display.bar(stage), slots)
        check_params(root, manifest)  # DVC would take its parameters from params.yaml as that is now
        display.finish(stage, manifest)
        if stage == "ingest":  # which finds out what lies beside its sources
            write_pipeline(root)
        _record(manifest, root)
    return manifest


def _record(manifest: dict, root: Path) -> None:
    outbox = Outbox(root, Tracker(root, load_params(root / "params.yaml")), warn)
    parent = opening(git_state(root), "dvc", params=digest(root / "params.yaml"))
    outbox.record(manifest, parent)
    if manifest["stage"] == "report":
        outbox.close(parent, [], succeeded=True)
    outbox.tell_what_is_left()


if __name__ == "__main__":
    try:
        run(sys.argv[1], Path.cwd())
    except OSTError as error:
        sys.exit(f"error: {error}")
