"""The whole cost of an arm: all that choosing took, beside what training did."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ost.comparison import ARMS, RATINGS, Trial
from ost.cost import Cost
from ost.store import read_json


def row_of(root: Path, plan: Trial) -> dict:
    """A trial's row of metrics/arms.json: its record, with what choosing takes as the workspace `root` is now."""
    return priced(read_json(root / f"trials/{plan.key}.json"), choosing_cost(root, plan))


def choosing_cost(root: Path, plan: Trial) -> Cost:
    """Of warm-up, scoring or judging, and the choice itself.

    Read from beside what the stage depends on: nothing is trained again because choosing took longer this time.
    """
    arm = ARMS[plan.subset.arm]
    paths = (*RATINGS[arm.rating].manifests, f"selections/{plan.subset.key}.manifest.json")
    return cost_of(read_json(root / path) for path in paths)


def cost_of(manifests: Iterable[Mapping]) -> Cost:
    """What the stages of these manifests took together."""
    return sum((Cost(one["seconds"], one["flops"]) for one in manifests), Cost())


def priced(record: Mapping, choosing: Cost) -> dict:
    """The record of a training, with what choosing took and what both did together."""
    return {
        **record,
        "select_seconds": choosing.seconds,
        "total_seconds": choosing.seconds + record["train_seconds"],
        "select_flops": choosing.flops,
        "total_flops": choosing.flops + record["train_flops"],
    }
