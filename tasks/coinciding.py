"""Which trainings come to the same: arms that keep the same samples, with the same turns masked, are trained once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.plan import Training
from ost.selection import masks_of
from ost.store import read_table
from tasks.plan import Plan
from tasks.settings import Params

MASKS = pa.list_(pa.int32())


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
    """Ids, ranks and masks of what a training's subset keeps, the best first; None where it has not been chosen yet."""
    file = root / f"selections/{training.subset.key}.parquet"
    if not file.exists():
        return None
    table = read_table(file)
    kept = table.select(["id", "rank"]).filter(pc.is_valid(table["rank"])).sort_by("rank")
    masks = masks_of(table)
    return kept.append_column("masked", pa.array([masks.get(name, []) for name in kept["id"].to_pylist()], MASKS))
