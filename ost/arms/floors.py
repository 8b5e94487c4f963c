"""Floors: what training on everything, on a random part, and on the anchors alone comes to."""

import pyarrow as pa

from ost.arms.arm import Arm
from ost.selection import NOT_DRAWN, selection_table, shuffled, size_of
from ost.settings import Settings

UNUSED = "only the anchors are trained on"


def draw(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """A random part, the same for the same seed whatever the pool's order."""
    ids = table["id"].to_pylist()
    return selection_table(ids, shuffled(ids, settings.seed)[: size_of(table, fraction)], NOT_DRAWN)


def nothing(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """No sample of the pool."""
    return selection_table(table["id"].to_pylist(), [], UNUSED)


ARMS = (
    Arm("full", "Full-SFT", draw, place=0, whole=True, colour="full"),
    Arm("random", "Random {share}", draw, place=1, colour="random"),
    Arm("anchors", "Anchors only", nothing, place=2, whole=True, with_anchors=True, colour="random"),
    Arm("random-anchors", "Random {share} + anchors", draw, place=3, with_anchors=True, colour="random"),
)
