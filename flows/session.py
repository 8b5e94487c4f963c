"""One run of a flow over a workspace: its workers, its MLflow record, and what it shows meanwhile."""

from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir
from pathlib import Path

from flows.display import Display
from ost.config import Params, load_params
from ost.errors import WorkspaceError
from tasks import versioning
from tasks.context import git_state
from tasks.tracking import Tracker
from tasks.workers import Workers


class Session:
    """Runs stages that are not up to date, versions what they leave, and records them. Use as a context manager."""

    def __init__(self, root: Path, *, flow_run: str = "", force: bool = False, name: str = "curate", parent: str = ""):
        """`name` of its MLflow run, which hangs under the run `parent`, if one is given; trials hang there as well."""
        self.root, self.force, self.flow_run = root.resolve(), force, flow_run
        self._name, self._above = name, parent
        self.params: Params = load_params(self.root / "params.yaml")
        self.display = Display()
        self.reused: list[str] = []
        self.ran: list[str] = []
        self.errors: list[Exception] = []

    def __enter__(self) -> "Session":
        self._inside = chdir(self.root)  # as for `dvc repro`: a relative path in params.yaml starts there
        self._inside.__enter__()
        self._stale = versioning.stale_stages(self.root)
        self._tracker = Tracker(self.root, self.params)
        self._parent = self._open()
        self._workers = Workers(self.params.compute.workers, self.display.advance)
        self._workers.__enter__()
        self.display.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._workers.__exit__(kind, error, trace)
        self.display.stop()
        self._tracker.note_reuse(self._parent, self.reused)
        self._tracker.close(self._parent, succeeded=error is None)
        self._inside.__exit__(kind, error, trace)

    def run(self, stage: str) -> bool:
        """Bring a stage up to date; returns whether it had to run."""
        try:
            return self._run(stage)
        except Exception as error:
            self.errors.append(_explained(error, stage))
            self.display.fail(stage)
            raise

    def _run(self, stage: str) -> bool:
        if not self.force and self._is_current(stage):
            self.reused.append(stage)
            self.display.finish(stage, None)
            return False
        manifest = self._workers.submit(stage, self.root).result()
        versioning.commit(self.root, stage)
        parent = self._above if self._above and stage.startswith("trial@") else self._parent
        self._tracker.record(manifest, parent, self.flow_run)
        self.ran.append(stage)
        self.display.finish(stage, manifest)
        return True

    def _open(self) -> str:
        tags = {"ost.flow_run": self.flow_run}
        return self._tracker.open(git_state(self.root), "prefect", tags, self._name, self._above)

    def raise_first_error(self) -> None:
        """Raise what went wrong first, if anything did: stages behind it only say that they could not start."""
        if self.errors:
            raise self.errors[0]

    def _is_current(self, stage: str) -> bool:
        """Until something has run, what DVC said at the start holds; from then on it is asked again."""
        return versioning.is_current(self.root, stage) if self.ran else stage not in self._stale


def _explained(error: Exception, stage: str) -> Exception:
    if isinstance(error, BrokenProcessPool):
        return WorkspaceError(
            f"the process that ran {stage} was killed from outside, most likely for want of memory: lower "
            "compute.workers or a batch_size, and run again; finished stages are kept"
        )
    return error
