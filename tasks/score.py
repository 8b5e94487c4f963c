"""Stage `score`: the utility of every pool sample."""

from ost.config import Score
from ost.data import content_digest
from ost.scoring import Job, Scored, score_file
from ost.store import write_json, write_table
from tasks.context import Context, Outcome
from tasks.shards import runner


def score(ctx: Context) -> Outcome:
    """Score the pool with the warm proxy against the anchors; the truth about the pool is out of reach here."""
    scored = score_pool(ctx, ctx.params.score)
    write_table(ctx.output("scores/utility.parquet"), scored.table)
    checks = scored.checks.to_json() if scored.checks else {}
    summary = {"toxic_share": scored.toxic_share, "quarantined": scored.quarantined, "checks": checks}
    write_json(ctx.output("metrics/score.json"), summary)
    return scoring_outcome(ctx, scored)


def score_pool(ctx: Context, settings: Score, store: str = ".ost/scores") -> Scored:
    """Score the workspace's pool with its warm proxy, by these settings; `store`: folder that shards are kept in."""
    compute = ctx.params.compute
    job = Job(
        pool=ctx.input("data/pool"),
        anchors=ctx.input("data/anchors"),
        proxy=ctx.input("models/proxy-warm"),
        base=ctx.input("models/proxy"),
        store=ctx.root / store,
        settings=settings,
        device=compute.device,
        threads=compute.threads,
    )
    return score_file(job, runner(compute), ctx.progress)


def scoring_outcome(ctx: Context, scored: Scored) -> Outcome:
    """What a scoring run reports: its figures, cost and warnings, and the digests of pool and anchors."""
    digests = {name: content_digest(ctx.samples(name).ids()) for name in ("pool", "anchors")}
    return Outcome(scored.figures, scored.cost, scored.warnings, digests)
