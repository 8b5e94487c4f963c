"""In-context approximation, a rival: what anchors before a sample take off its loss (ost/baselines/in_context.py)."""

import numpy as np
import pyarrow as pa

from ost.arms.arm import Arm, Material, Scores, ScoreTable, best


def score(material: Material) -> ScoreTable:
    """The warm proxy's loss on each sample, less its loss behind some of the anchors."""
    from ost.baselines.in_context import in_context

    pool, anchors, params = material.samples("pool"), list(material.samples("anchors")), material.params
    scores, cost = in_context(
        pool,
        anchors,
        material.model("proxy-warm"),
        demonstrations=params.in_context.demonstrations,
        seed=params.seed,
        execution=material.execution,
        progress=material.progress,
    )
    table = pa.table({"id": pool.ids(), "score": scores})
    return ScoreTable(table, {"gain": float(np.nanmean(scores))}, cost)


READS = ("pool", "anchors", "proxy", "proxy-warm")
IN_CONTEXT = Scores("in-context", score, READS, ("in_context", "seed"))

ARMS = (Arm("in-context", "In context {share}", best, IN_CONTEXT, place=35, colour="violet"),)
