"""Stage `score`: the utility of every pool sample."""

from ost.data import content_digest
from ost.models import load_checkpoint, resolve_device
from ost.scoring import score as score_pool
from ost.store import write_json, write_table
from tasks.context import Context, Outcome


def score(ctx: Context) -> Outcome:
    """Score the pool with the warm proxy against the anchors; the truth about the pool is out of reach here."""
    settings = ctx.params.score
    proxy = load_checkpoint(ctx.input("models/proxy-warm"), resolve_device(ctx.params.compute.device))
    sets = {name: ctx.samples(f"data/{name}.parquet") for name in ("pool", "anchors")}
    scored = score_pool(
        sets["pool"],
        sets["anchors"],
        proxy,
        settings.method,
        step=settings.step,
        reduction=settings.reduction,
        batch_size=settings.batch_size,
        progress=ctx.progress,
    )
    write_table(ctx.output("scores/utility.parquet"), scored.table)
    summary = {"toxic_share": scored.toxic_share, "quarantined": scored.quarantined}
    write_json(ctx.output("metrics/score.json"), summary)
    warnings = [f"{len(scored.quarantined)} sample(s) with a loss that is not finite: see metrics/score.json"]
    digests = {name: content_digest(sample.id for sample in samples) for name, samples in sets.items()}
    return Outcome({"toxic_share": scored.toxic_share}, scored.cost, warnings if scored.quarantined else [], digests)
