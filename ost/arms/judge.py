"""LLM-as-a-Judge, a rival: a sample stays where a model agrees with its answer (ost/baselines/judge.py)."""

import pyarrow as pa

from ost.arms.arm import Arm, Material, Scores, ScoreTable
from ost.cost import Cost, Stopwatch
from ost.selection import selection_table
from ost.settings import Settings

DISAGREES = "the judge does not agree with its answer"


def score(material: Material) -> ScoreTable:
    """What the judge says of each sample, and how it does on the anchors, whose answers are trusted."""
    from ost.baselines.judge import judge

    settings, metric, model = material.params.judge, material.params.evaluate.metric, material.judge()
    pool, anchors = material.samples("pool"), material.samples("anchors")
    watch = Stopwatch()
    said = judge(pool, model, settings.mode, metric, material.progress)
    spent = watch.seconds
    cost = Cost(spent + model.earlier, model.flops)
    tokens = {name: float(getattr(model, name)) for name in ("prompt_tokens", "completion_tokens")}  # of the pool alone
    table = pa.table({"id": pool.ids(), "reply": pa.array(said.replies, pa.string()), "agrees": said.agrees})
    warnings = _unanswered(said, pool, model, "pool samples")
    trusted = judge(anchors, model, settings.mode, metric)
    warnings += _unanswered(trusted, anchors, model, "anchors")
    shares = {"kept": said.share, "unanswered": len(said.unanswered) / len(pool), "agrees_with_anchors": trusted.share}
    return ScoreTable(table, shares | tokens | {"spent_seconds": spent}, cost, warnings, {"metrics": said.metrics})


def _unanswered(said, samples, model, named: str) -> list[str]:
    """What a person should know of samples that the judge gave no answer to."""
    if not said.unanswered:
        return []
    first = samples[said.unanswered[0]].id
    return [
        f"the judge gave no answer to {len(said.unanswered):,} of {len(samples):,} {named}, such as {first}: these "
        f"count as not agreed with; the last time: {model.refusal}"
    ]


def choose(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """All that the judge agrees with."""
    return selection_table(table["id"].to_pylist(), table.filter(table["agrees"])["id"].to_pylist(), DISAGREES)


SETTINGS = ("models.judge", "judge", "evaluate.metric")
JUDGE = Scores("judge", score, ("pool", "anchors", "judge"), SETTINGS)

ARMS = (Arm("judge", "LLM-as-a-Judge", choose, JUDGE, place=50, whole=True, colour="violet"),)
