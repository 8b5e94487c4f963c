"""Records on their way to MLflow: those that its server could not take are kept here, and delivered later."""

import threading
import time
from pathlib import Path

from mlflow.exceptions import MlflowException

from ost.store import read_json, write_json
from tasks.tracking import Tracker

FOLDER = ".ost/outbox"


class Outbox:
    """A folder of records that are delivered in order, so that a server that is down costs no stage."""

    def __init__(self, root: Path, tracker: Tracker):
        self._folder, self._tracker = root / FOLDER, tracker
        self._one_at_a_time = threading.Lock()

    def record(self, manifest: dict, parent: str, flow_run: str = "") -> None:
        """Make a finished stage a child run (see `Tracker.start`, `Tracker.fill`), now or when the server answers."""
        self._put({"manifest": manifest, "parent": parent, "flow_run": flow_run})

    def close(self, parent: str, reused: list[str], succeeded: bool) -> int:
        """End a run, and say in it which stages were up to date; returns how much is left to deliver."""
        return self._put({"close": parent, "reused": reused, "succeeded": succeeded})

    def deliver(self) -> int:
        """Hand over what is kept, the oldest first, as far as the server takes it; returns how much is left."""
        with self._one_at_a_time:
            left = sorted(self._folder.glob("*.json"))
            while left:
                try:
                    self._hand_over(left[0])
                except MlflowException:
                    return len(left)
                left.pop(0).unlink()
            return 0

    def _put(self, entry: dict) -> int:
        write_json(self._folder / f"{time.time_ns():020}.json", entry)
        return self.deliver()

    def _hand_over(self, file: Path) -> None:
        entry, tracker = read_json(file), self._tracker
        if parent := entry.get("close"):
            tracker.note_reuse(parent, entry["reused"])
            tracker.close(parent, entry["succeeded"])
            return
        if "run" not in entry:  # a transfer that breaks off goes on in the same run
            entry["run"] = tracker.start(entry["manifest"], entry["parent"], entry["flow_run"])
            write_json(file, entry)
        tracker.fill(entry["run"], entry["manifest"])
