"""Rivals by a model's loss: low loss alone, and its fall in a reference model that has fitted the anchors."""

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ost.arms.arm import Arm, Material, Scores, ScoreTable, best
from ost.cost import Cost

if TYPE_CHECKING:
    from ost.training import Recipe


def low_loss(material: Material) -> ScoreTable:
    """The warm proxy's loss on each sample, negated."""
    from ost.baselines.low_loss import low_loss as score

    pool = material.samples("pool")
    scores, cost = score(pool, material.model("proxy-warm"), material.execution, material.progress)
    return _table(pool, scores, cost, loss=-float(np.mean(scores)))


def color(material: Material) -> ScoreTable:
    """CoLoR-Filter: what the warm proxy's loss on each sample falls by once it is trained on the anchors."""
    from ost.baselines.reference_models import color as score

    return _reducible(material, score)


def rho(material: Material) -> ScoreTable:
    """RHO-LOSS: the warm proxy's loss on each sample beyond that of the base proxy trained on the anchors alone."""
    from ost.baselines.reference_models import rho as score
    from ost.models import add_adapter

    params, base = material.params, material.model("proxy")
    if params.warmup.lora_rank:
        add_adapter(base.model, params.warmup.lora_rank, params.seed)
    return _reducible(material, score, base)


def _reducible(material: Material, score, *base) -> ScoreTable:
    """Scores by a reference model."""
    pool, anchors, warm = material.samples("pool"), material.samples("anchors"), material.model("proxy-warm")
    how = {"execution": material.execution, "progress": material.progress}
    scores, cost = score(
        pool, anchors, warm, *base, on_anchors(material, warm, len(anchors), material.params.holdout.epochs), **how
    )
    return _table(pool, scores, cost, reducible=float(np.mean(scores)))


def on_anchors(material: Material, warm, anchors: int, epochs: int) -> "Recipe":
    """The training of a second model on so many anchors: some passes over them, at the warm-up's rate."""
    from ost.training import Recipe, usual_rate

    params = material.params
    usual = usual_rate(warm.model.num_parameters(), bool(params.warmup.lora_rank))
    return Recipe(
        steps=epochs * math.ceil(anchors / params.sft.batch_size),
        batch_size=params.sft.batch_size,
        learning_rate=params.warmup.learning_rate or usual,
        seed=params.seed,
    )


def _table(pool, scores: np.ndarray, cost: Cost, **metrics: float) -> ScoreTable:
    return ScoreTable(pa.table({"id": pool.ids(), "score": scores}), metrics, cost)


PROXIES = ("proxy", "proxy-warm")
REFERENCE = ("seed", "holdout", "sft.batch_size", "warmup.learning_rate")
LOSS = Scores("loss", low_loss, ("pool", *PROXIES), ())
COLOR = Scores("color", color, ("pool", "anchors", *PROXIES), REFERENCE)
RHO = Scores("rho", rho, ("pool", "anchors", *PROXIES), (*REFERENCE, "warmup.lora_rank"))

ARMS = (
    Arm("low-loss", "Low loss {share}", best, LOSS, place=10, colour="wrong"),
    Arm("color", "CoLoR-Filter {share}", best, COLOR, place=30, colour="right"),
    Arm("rho", "RHO-LOSS {share}", best, RHO, place=31, colour="right"),
)
