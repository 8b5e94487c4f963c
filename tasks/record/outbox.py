"""Records on their way to MLflow: those that its server could not take are kept here, and delivered later."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

from mlflow.exceptions import MlflowException

from ost.errors import WorkspaceError
from ost.store import read_json, write_json
from tasks.stages.digests import Digests
from tasks.tracking import Opening, Tracker

FOLDER = ".ost/outbox"
REFUSED = "refused"
"""Where in it entries lie that no further try would deliver."""
LONGEST = 24 * 3600
"""Seconds for which an entry is tried again that fails while the server answers, whatever the server says of it."""
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
"""By default MLflow's client tries for minutes; here the next stage tries again."""
SPOILED = (WorkspaceError, LookupError, TypeError, ValueError)
"""What an entry raises that is not whole, or whose files are not."""
NOT_ITS_FAULT = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
"""Answers below 500 that would be the same for any entry, or another one later."""

Parent = Opening | str
"""The run that others hang under: as it is opened with the first of them, or the id of one that is open."""


class Outbox:
    """A folder of records that are delivered in order, so that a server that is down costs no stage.

    An entry that cannot be delivered although the server answers moves to `refused/`, with the reason, and the rest
    goes on. Moved back by hand it is tried again.
    """

    def __init__(self, root: Path, tracker: Tracker, tell: Callable[[str], None] = lambda text: None):
        """`tell`: shows a person what became of records, in a line each."""
        self._root, self._folder, self._tracker, self._tell = root, root / FOLDER, tracker, tell
        self._one_at_a_time = threading.Lock()
        self._held: set[Path] = set()
        self.trouble = ""
        """Why the last delivery left something; empty where it left nothing."""

    def open(self, parent: Parent) -> int:
        """Start a run that others will hang under, now or when the server answers."""
        self._put({"parent": parent})
        return self.deliver()

    @contextmanager
    def holding(self, manifest: dict, parent: Parent, flow_run: str = "") -> Iterator[None]:
        """Keep a finished stage, to make a child run of it (see `Tracker.start`, `Tracker.fill`) after the block.

        Within it DVC may commit what the stage made, and takes a file away for a moment. What is kept later waits too.
        """
        file = self._new_file()
        self._held.add(file)
        try:
            write_json(file, {"manifest": manifest, "parent": parent, "flow_run": flow_run})
            yield
        finally:
            self._held.remove(file)

    def record(self, manifest: dict, parent: Parent, flow_run: str = "") -> int:
        """Make a child run of a finished stage, now or when the server answers."""
        with self.holding(manifest, parent, flow_run):
            pass
        return self.deliver()

    def log(self, what: str, parent: Parent, summary: dict, folder: Path) -> int:
        """Log in a run what a `comparison` or a `recuration` found, now or when the server answers."""
        self._put({"log": what, "parent": parent, "summary": summary, "folder": str(folder)})
        return self.deliver()

    def close(self, parent: Parent, reused: list[str], succeeded: bool) -> int:
        """End a run, and say in it which stages were up to date; returns how much is left to deliver."""
        self._put({"close": parent, "reused": reused, "succeeded": succeeded})
        return self.deliver()

    def deliver(self) -> int:
        """Hand over what is kept, the oldest first, as far as the server takes it; returns how much is left."""
        with self._one_at_a_time, _impatiently():
            left = sorted(self._folder.glob("*.json"))
            self.trouble = "" if not left or self._tracker.answers() else "it does not answer"
            while left and not self.trouble and left[0] not in self._held:
                try:
                    self._hand_over(left[0])
                    left[0].unlink()
                except Exception as error:  # of whatever kind: a record that fails must not end a finished stage
                    if not self._is_in_vain(error, left[0]):
                        self.trouble = _in_a_line(error)
                        break
                    self._refuse(left[0], error)
                left.pop(0)
            return len(left)

    def tell_what_is_left(self) -> None:
        """Say how many records MLflow has not taken, if it has not taken all, and why."""
        if left := len(list(self._folder.glob("*.json"))):
            self._tell(
                f"MLflow has not taken {left} records ({self.trouble}): they are kept in {FOLDER}, and the next run "
                "here delivers them"
            )

    def _put(self, entry: dict) -> None:
        write_json(self._new_file(), entry)

    def _new_file(self) -> Path:
        return self._folder / f"{time.time_ns():020}.json"

    def _hand_over(self, file: Path) -> None:
        entry, tracker = read_json(file), self._tracker
        run = self._run_of(entry["close"] if "close" in entry else entry["parent"])
        if "close" in entry:
            tracker.note_reuse(run, entry["reused"])
            tracker.close(run, entry["succeeded"])
            return
        if "log" in entry:
            write = {"comparison": tracker.log_summary, "recuration": tracker.log_recuration}[entry["log"]]
            write(run, entry["summary"], Path(entry["folder"]))
            return
        if "manifest" not in entry:  # the run is open now
            return
        self._check_files(entry["manifest"])
        if "run" not in entry:  # a transfer that breaks off goes on in the same run
            entry["run"] = tracker.start(entry["manifest"], run, entry["flow_run"])
            write_json(file, entry)
        tracker.fill(entry["run"], entry["manifest"])

    def _run_of(self, parent: Parent) -> str:
        try:
            return parent if isinstance(parent, str) else self._tracker.joined(parent)
        except Exception as error:  # a deleted experiment, say: no entry's own fault
            raise ConnectionError(f"no run can be opened: {_in_a_line(error)}") from error

    def _check_files(self, manifest: dict) -> None:
        """Raises WorkspaceError where files are gone, or others by now: they would be recorded under a wrong digest."""
        digests = Digests(self._root / ".ost/digests.db")
        for path, md5 in self._tracker.uploaded(manifest).items():
            full = self._root / path
            if not full.exists() or digests.of(full) != md5:
                raise WorkspaceError(f"{path} is no longer what {manifest['stage']} left")

    def _is_in_vain(self, error: Exception, file: Path) -> bool:
        """Whether no further try would deliver an entry: by what it raised, or because it has failed for too long."""
        status = _status(error)
        if status is None:
            spoiled = isinstance(error, SPOILED) and not isinstance(error, OSError)  # as some of requests' errors are
        else:
            spoiled = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in NOT_ITS_FAULT
        age = time.time() - int(file.stem) / 1e9
        return spoiled or (age > LONGEST and self._tracker.answers())

    def _refuse(self, file: Path, error: Exception) -> None:
        place = self._folder / REFUSED / file.name
        with suppress(ValueError):  # what is no JSON moves as it is
            entry = read_json(file)
            write_json(file, entry | {"why": _in_a_line(error)})
            if run := entry.pop("run", ""):
                with suppress(Exception):  # it was begun, and nobody will end it
                    self._tracker.close(run, succeeded=False)
        place.parent.mkdir(exist_ok=True)
        file.replace(place)
        self._tell(f"MLflow has no record of what is in {FOLDER}/{REFUSED}/{file.name}: {_in_a_line(error)}")


@contextmanager
def _impatiently() -> Iterator[None]:
    """MLflow's client gives up soon, unless the environment says when."""
    name, value = RETRIES
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _status(error: Exception) -> int | None:
    """The HTTP status that MLflow's server answered with, as its client tells it; None where it told none."""
    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    return getattr(getattr(error, "response", None), "status_code", None)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
