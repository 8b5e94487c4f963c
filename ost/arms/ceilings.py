"""Ceilings: arms that know which samples are wrong, as no user does, for worlds in which it is known."""

import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.arm import TRUTH, Arm
from ost.selection import NOT_DRAWN, selection_table, shuffled, size_of
from ost.settings import Settings

WRONG = "its answer is wrong"


def right(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """All that are right."""
    return selection_table(table["id"].to_pylist(), _right_ids(table), WRONG)


def right_drawn(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """A random part of those that are right: as many as the fraction of the whole pool is, or all of them."""
    ids = _right_ids(table)
    kept = shuffled(ids, settings.seed)[: size_of(table, fraction)]
    return selection_table(table["id"].to_pylist(), kept, WRONG, dict.fromkeys(ids, NOT_DRAWN))


def _right_ids(table: pa.Table) -> list[str]:
    return table.filter(pc.invert(table["wrong"]))["id"].to_pylist()


ARMS = (
    Arm("clean", "Clean {share}, drawn", right_drawn, TRUTH, place=90, colour="base"),
    Arm("oracle", "Oracle: all that is clean", right, TRUTH, place=91, whole=True, colour="base"),
)
