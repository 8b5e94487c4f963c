"""FineVision's ratings, a rival: they come with the pool's own samples (ost/baselines/finevision.py)."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.arm import CUT, Arm, Material, Scores, ScoreTable
from ost.cost import Cost, Stopwatch
from ost.selection import NOT_DRAWN, selection_table, shuffled, size_of
from ost.settings import Settings

UNRATED = "it came without ratings"


def score(material: Material) -> ScoreTable:
    """The ratings that came with the pool."""
    from ost.baselines.finevision import rated

    watch = Stopwatch()
    table = rated(material.samples("pool").table(["id", "ratings"]))
    least = table["least"].to_numpy()
    known = np.isfinite(least)
    warnings = []
    if not known.all():
        warnings = [f"{(~known).sum():,} of {len(table):,} samples came without ratings; `rated` keeps none of them"]
    metrics = {"rated": float(known.mean()), "least": float(least[known].mean())}
    return ScoreTable(table, metrics, Cost(watch.seconds), warnings)


def choose(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """By the lowest axis, then by the mean of all; equal ones as the seed draws them, whatever the pool's order."""
    rated = table.filter(pc.is_finite(table["least"])).select(["id", "least", "mean"])
    marks = {name: mark for name, *mark in zip(*(column.to_pylist() for column in rated.columns), strict=True)}
    ranked = sorted(shuffled(marks, settings.seed), key=marks.__getitem__, reverse=True)
    kept = ranked[: size_of(table, fraction)]
    reasons = {name: NOT_DRAWN if marks[name] == marks[kept[-1]] else CUT for name in ranked}
    return selection_table(table["id"].to_pylist(), kept, UNRATED, reasons)


ARMS = (Arm("rated", "FineVision's ratings {share}", choose, Scores("rated", score, ("pool",)), place=60),)
