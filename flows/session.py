"""One run of a flow over a workspace: its workers, its MLflow record, and what it shows meanwhile."""

import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, chdir
from pathlib import Path

from flows.display import Display, warn
from flows.forecast import show_forecast
from flows.lock import claim
from ost.errors import WorkspaceError
from tasks import versioning
from tasks.coinciding import coinciding
from tasks.forecast import is_worth_it, on_accelerator
from tasks.pipeline import Stage, write_pipeline
from tasks.plan import Plan
from tasks.record.outbox import Outbox
from tasks.settings import Params, load_params
from tasks.stages.context import git_state
from tasks.stages.run import check_params
from tasks.tracking import Opening, Tracker, opening, sweep_downloads
from tasks.workers import Workers


class Session:
    """Runs stages that are not up to date, versions what they leave, and records them. Use as a context manager.

    A second one in the same workspace is refused.
    """

    def __init__(
        self,
        root: Path,
        *,
        flow_run: str = "",
        force: bool = False,
        name: str = "curate",
        parent: Opening | None = None,
    ):
        """`name` of its MLflow run, which hangs under the run `parent`, if one is given; trials hang there as well."""
        self.root, self.force, self.flow_run = root.resolve(), force, flow_run
        self._name, self._above = name, parent
        self.params: Params = load_params(self.root / "params.yaml")
        self.display = Display()
        self.reused: list[str] = []
        self.ran: list[str] = []
        self.errors: list[Exception] = []
        self._expected: dict[str, threading.Event] = {}
        self._announced: Sequence[Stage] = ()
        self._foretelling, self._foretold = threading.Lock(), False

    def __enter__(self) -> "Session":
        with ExitStack() as opened:  # what is open is closed again where a later step fails
            opened.enter_context(claim(self.root / ".ost/lock"))
            opened.enter_context(chdir(self.root))  # as for `dvc repro`: a relative path in params.yaml starts there
            sweep_downloads(self.root)
            write_pipeline(self.root)
            self._stale = versioning.stale_stages(self.root)
            self.tracker = Tracker(self.root, self.params)
            self._outbox = Outbox(self.root, self.tracker, warn)
            self._outbox.deliver()  # before a stage runs anew whose files are still to be uploaded
            tags = {"ost.flow_run": self.flow_run}
            self.parent = opening(git_state(self.root), "prefect", tags, self._name, self._above)
            self._outbox.open(self.parent)
            opened.push(self._end)
            opened.enter_context(self.display)
            self._workers = opened.enter_context(Workers(self.root, self.params.compute, self.display.advance))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._opened.__exit__(kind, error, trace)

    def _end(self, kind, error, trace) -> None:
        """Close the record, once the workers have ended and the bars are gone."""
        self._outbox.close(self.parent, self.reused, succeeded=error is None)
        self._outbox.tell_what_is_left()

    def expect(self, stages: Sequence[Stage]) -> None:
        """Announce the stages that will be run: a training on the same samples as an earlier one waits for that one."""
        self._announced = stages
        self._expected |= {stage.name: threading.Event() for stage in stages}

    def run(self, stage: str, anew: bool = False) -> bool:
        """Bring a stage up to date, or run it `anew` in any case; returns whether it had to run."""
        try:
            ran = self._run(stage, anew or self.force)
            if stage == "ingest":  # from here on the benchmark's tasks are known
                Plan(self.params).check_tasks(self.root)
            return ran
        except Exception as error:
            self.errors.append(told := _explained(error, stage))
            self.display.fail(stage)
            raise told from error.__cause__
        finally:
            if stage in self._expected:
                self._expected[stage].set()

    def run_unversioned(self, stage: str) -> None:
        """Run a stage whose outputs are no part of the pipeline."""
        self.display.finish(stage, self._workers.run(stage))

    def record(self, manifest: dict) -> int:
        """Make MLflow's record of a stage that ran earlier; returns how many records are left to deliver."""
        return self._outbox.record(manifest, self.parent, self.flow_run)

    def log(self, what: str, summary: dict, folder: Path) -> None:
        """Log in the run's own record what it found, now or when the server answers; see `Outbox.log`."""
        self._outbox.log(what, self.parent, summary, folder)

    def _run(self, stage: str, anew: bool) -> bool:
        if not anew and self._is_current(stage):
            self.reused.append(stage)
            self.display.finish(stage, None)
            return False
        if on_accelerator(self._announced, {stage}):
            self._foretell()
        self._wait_for_twin(stage)
        manifest = self._workers.run(stage)
        if stage == "ingest":  # which finds out what lies beside its sources
            write_pipeline(self.root)
        check_params(self.root, manifest)  # DVC would take its parameters from params.yaml as that is now
        parent = self._above if self._above and stage.startswith("trial-") else self.parent
        with self._outbox.holding(manifest, parent, self.flow_run):
            versioning.commit(self.root, stage)  # once it is kept there: a kill loses neither
        self._outbox.deliver()
        self.ran.append(stage)
        self.display.finish(stage, manifest)
        return True

    def _foretell(self) -> None:
        """Before the first long work: show what all of it takes; raises ConfigError where it cannot fit."""
        with self._foretelling:
            if not self._foretold and is_worth_it(self.root, self._workers.devices.accelerated):
                stale = versioning.stale_stages(self.root) if not self.force else {one.name for one in self._announced}
                forecast = self._workers.forecast(on_accelerator(self._announced, stale))
                show_forecast(forecast)
                forecast.check()
            self._foretold = True

    def _wait_for_twin(self, stage: str) -> None:
        """Of two trainings on the same samples the second takes over what the first comes to."""
        kind, _, key = stage.partition("-")
        twin = coinciding(self.root, self.params, key) if kind in ("sft", "trial") else None
        if event := self._expected.get(f"{kind}-{twin}"):
            event.wait()

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
            "compute.workers or compute.batch_tokens, and run again; finished stages are kept"
        )
    return error
