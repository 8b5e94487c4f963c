"""Rows of metrics/arms.json: what a trial gave, with all that choosing took beside what training did."""

from pathlib import Path

from ost.comparison import ARMS, RATINGS, Trial
from ost.store import read_json


def row_of(root: Path, plan: Trial) -> dict:
    """A trial's row of metrics/arms.json: its record, with what choosing takes as the workspace `root` is now."""
    return priced(read_json(root / f"trials/{plan.key}.json"), root, plan)


def priced(record: dict, root: Path, plan: Trial) -> dict:
    """The record with the whole cost: of warm-up, scoring or judging, the choice itself, and training.

    Read from beside what the stage depends on: nothing is trained again because choosing took longer this time.
    """
    arm = ARMS[plan.subset.arm]
    paths = (*RATINGS[arm.rating].manifests, f"selections/{plan.subset.key}.manifest.json")
    manifests = [read_json(root / path) for path in paths]
    choosing = {unit: sum(one[unit] for one in manifests) for unit in ("seconds", "flops")}
    return record | {
        name: value
        for unit, taken in choosing.items()
        for name, value in ((f"select_{unit}", taken), (f"total_{unit}", taken + record[f"train_{unit}"]))
    }
