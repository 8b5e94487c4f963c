"""Train on Validation, a rival: what changes most by a training on the anchors (ost/baselines/train_on_validation.py).

`tov` is what the paper found better: half of what is kept by score, the other half at random. `tov-top`: all by score.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from ost.arms.arm import CUT, Arm, Material, Scores, ScoreTable, best, ranked
from ost.arms.loss import PROXIES, on_anchors
from ost.selection import NOT_DRAWN, selection_table, shuffled, size_of
from ost.settings import Settings


def score(material: Material) -> ScoreTable:
    """What the warm proxy's losses change by a short training on the anchors.

    One step more than the passes take: the first of a schedule has a rate of zero.
    """
    from ost.baselines.train_on_validation import tov

    pool, anchors, warm = material.samples("pool"), material.samples("anchors"), material.model("proxy-warm")
    settings, how = material.params.tov, {"execution": material.execution, "progress": material.progress}
    recipe = on_anchors(material, warm, len(anchors), settings.epochs)
    scores, cost = tov(pool, anchors, warm, replace(recipe, steps=recipe.steps + 1), settings.change, **how)
    return ScoreTable(pa.table({"id": pool.ids(), "score": scores}), {"change": float(np.mean(scores))}, cost)


def with_random(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """Half of the subset by score, and one more where its size is odd; the rest at random among all others.

    Samples without a finite score are left out.
    """
    size, ids = size_of(table, fraction), ranked(table)["id"].to_pylist()
    top, rest = ids[: (size + 1) // 2], ids[(size + 1) // 2 :]
    drawn = shuffled(rest, settings.seed)[: size // 2]
    return selection_table(table["id"].to_pylist(), [*top, *drawn], CUT, dict.fromkeys(rest, NOT_DRAWN))


SETTINGS = ("seed", "tov", "sft.batch_size", "warmup.learning_rate", "warmup.lora_rank")
TOV = Scores("tov", score, ("pool", "anchors", *PROXIES), SETTINGS)

ARMS = (
    Arm("tov", "Train on Validation {share}", with_random, TOV, place=33, colour="right"),
    Arm("tov-top", "Train on Validation {share}, by score", best, TOV, place=34, colour="right"),
)
