"""TACS, a rival: the share of its loss that a sample loses along a path on the anchors (ost/baselines/tacs.py)."""

import numpy as np
import pyarrow as pa

from ost.arms.arm import Arm, Material, Scores, ScoreTable, best
from ost.cost import Cost, Stopwatch
from ost.errors import ModelError


def score(material: Material) -> ScoreTable:
    """TACS from the base proxy, by an adapter of rank 1 that is put on it here."""
    from ost.baselines.tacs import RANK, tacs
    from ost.models import add_adapter
    from ost.models.adapter import has_adapter
    from ost.training import usual_rate

    watch, params, proxy = Stopwatch(), material.params, material.model("proxy")
    if has_adapter(proxy.model):
        raise ModelError(
            "TACS puts an adapter of its own on the base proxy, and models.proxy is an adapter already: merge it into "
            "its base, or leave the arm `tacs` out"
        )
    rate = params.warmup.learning_rate or usual_rate(proxy.model.num_parameters(), adapter=True)
    add_adapter(proxy.model, RANK, params.seed)
    pool, anchors = material.samples("pool"), material.samples("anchors")
    how = {"execution": material.execution, "progress": material.progress}
    found = tacs(pool, list(anchors), proxy, most_steps=params.tacs.most_steps, learning_rate=rate, **how)
    table = pa.table({"id": pool.ids(), "score": found.scores})
    metrics = {"steps": float(found.depth), "drop": float(np.nanmean(found.scores))}
    cost, longest, warnings = Cost(watch.seconds, found.cost.flops), params.tacs.most_steps, []
    if found.depth == longest > 1:
        warnings = [f"the path was still pointing more at anchors left out at tacs.most_steps ({longest}): raise it"]
    return ScoreTable(table, metrics, cost, warnings, {"selectivity": list(found.selectivity)})


SETTINGS = ("seed", "tacs", "warmup.learning_rate")
TACS = Scores("tacs", score, ("pool", "anchors", "proxy"), SETTINGS)

ARMS = (Arm("tacs", "TACS {share}", best, TACS, place=32, colour="right"),)
