"""Train on Validation, a rival: what changes most by a training on the anchors (ost/baselines/train_on_validation.py).

`tov` is what the paper found better: half of what is kept by score, the other half at random. `tov-top`: all by score.
"""

import numpy as np
import pyarrow as pa

from ost.arms.arm import CUT, Arm, Material, Scores, ScoreTable, best, ranked
from ost.arms.loss import PROXIES, REFERENCE, on_anchors
from ost.selection import NOT_DRAWN, selection_table, shuffled, size_of
from ost.settings import Settings


def score(material: Material) -> ScoreTable:
    """How much the warm proxy's predictions change by the training that CoLoR-Filter's reference has, too."""
    from ost.baselines.train_on_validation import tov

    pool, anchors, warm = material.samples("pool"), material.samples("anchors"), material.model("proxy-warm")
    how = {"execution": material.execution, "progress": material.progress}
    scores, cost = tov(pool, anchors, warm, on_anchors(material, warm, len(anchors)), **how)
    return ScoreTable(pa.table({"id": pool.ids(), "score": scores}), {"change": float(np.mean(scores))}, cost)


def with_random(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """Half of the subset by score, and one more where its size is odd; the rest at random among all others.

    Samples without a finite score are left out.
    """
    size, ids = size_of(table, fraction), ranked(table)["id"].to_pylist()
    top, rest = ids[: (size + 1) // 2], ids[(size + 1) // 2 :]
    drawn = shuffled(rest, settings.seed)[: size // 2]
    return selection_table(table["id"].to_pylist(), [*top, *drawn], CUT, dict.fromkeys(rest, NOT_DRAWN))


TOV = Scores("tov", score, ("pool", "anchors", *PROXIES), (*REFERENCE, "warmup.lora_rank"))

ARMS = (
    Arm("tov", "Train on Validation {share}", with_random, TOV, place=33, colour="right"),
    Arm("tov-top", "Train on Validation {share}, by score", best, TOV, place=34, colour="right"),
)
