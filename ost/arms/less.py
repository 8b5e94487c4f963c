"""LESS, a rival: gradient features of an adapter, and their likeness to the anchors' (ost/baselines/less.py)."""

import pyarrow as pa

from ost.arms.arm import Arm, Material, Scores, ScoreTable, best
from ost.cost import Cost, Stopwatch


def score(material: Material) -> ScoreTable:
    """LESS on an adapter of the proxy that is warmed up here: it needs Adam's whole state."""
    from ost.baselines.less import less
    from ost.models import add_adapter
    from ost.training import train
    from ost.warmup import warmup_data

    watch, params, proxy = Stopwatch(), material.params, material.model("proxy")
    pool, anchors = material.samples("pool"), material.samples("anchors")
    recipe, seen = warmup_data(params, pool, proxy.model.num_parameters())
    add_adapter(proxy.model, params.less.lora_rank, params.seed)
    trained = train(proxy, seen, recipe, material.progress)
    scores, cost = less(
        pool,
        anchors,
        proxy,
        trained.moments,
        dimensions=params.less.dimensions,
        execution=material.execution,
        progress=material.progress,
    )
    table = pa.table({"id": pool.ids(), "score": scores})
    return ScoreTable(table, {"loss": trained.loss}, Cost(watch.seconds, trained.cost.flops + cost.flops))


SETTINGS = ("less", "seed", "warmup", "sft.steps", "sft.epochs", "sft.batch_size")
LESS = Scores("less", score, ("pool", "anchors", "proxy"), SETTINGS)

ARMS = (Arm("less", "LESS {share}", best, LESS, place=20, colour="right"),)
