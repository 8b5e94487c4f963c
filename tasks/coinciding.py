"""Which trainings come to the same: arms that keep the same samples are trained once, and said to coincide."""

from pathlib import Path

from ost.arms.plan import Training
from ost.selection import kept_ids
from ost.store import read_table
from tasks.plan import Plan
from tasks.settings import Params


def coinciding(root: Path, params: Params, key: str) -> str | None:
    """The key of an earlier training of the plan that keeps the same samples in the same order, under one protocol."""
    plan = Plan(params).trainings
    own = next((training for training in plan if training.key == key), None)
    if own is None or not (kept := _kept(root, own)):
        return None
    for other in plan[: plan.index(own)]:
        alike = other.protocol == own.protocol and other.subset.arm.with_anchors == own.subset.arm.with_anchors
        if alike and _kept(root, other) == kept:
            return other.key
    return None


def _kept(root: Path, training: Training) -> list[str]:
    file = root / f"selections/{training.subset.key}.parquet"
    return kept_ids(read_table(file)) if file.exists() else []
