"""Which trainings come to the same: arms that keep the same samples are trained once, and said to coincide."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.plan import Training
from ost.store import read_table
from tasks.plan import Plan
from tasks.settings import Params


def coinciding(root: Path, params: Params, key: str) -> str | None:
    """The key of an earlier training of the plan that keeps the same samples in the same order, under one protocol."""
    plan = Plan(params).trainings
    own = next((training for training in plan if training.key == key), None)
    kept = None if own is None else _kept(root, own)
    if not kept:
        return None
    for other in plan[: plan.index(own)]:
        alike = other.protocol == own.protocol and other.subset.arm.with_anchors == own.subset.arm.with_anchors
        if alike and kept.equals(_kept(root, other)):
            return other.key
    return None


def _kept(root: Path, training: Training) -> pa.Table | None:
    """Ids and ranks of what a training's subset keeps, the best first; None where it has not been chosen yet."""
    file = root / f"selections/{training.subset.key}.parquet"
    if not file.exists():
        return None
    table = read_table(file, ["id", "rank"])
    return table.filter(pc.is_valid(table["rank"])).sort_by("rank")
