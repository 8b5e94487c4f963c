"""Stage `trial@KEY`: the target, trained on a subset under a protocol and evaluated; its weights are not kept.

`trial-anchored@KEY` trains on the anchors as well, and so depends on them.
"""

from ost.comparison import ARMS, Trial
from ost.cost import Cost, Stopwatch
from ost.data import Joined, Samples, content_digest
from ost.evaluation import evaluate
from ost.models import load_checkpoint, resolve_device
from ost.selection import kept_ids
from ost.store import read_table, write_json
from ost.training import train
from tasks.context import Context, Outcome
from tasks.costs import choosing_cost, priced
from tasks.sft import sft_recipe


def trial(ctx: Context) -> Outcome:
    """Writes trials/KEY.json: accuracy, and what training cost."""
    watch, plan = Stopwatch(), Trial.parse(ctx.key)
    samples, share = _lessons(ctx, plan)
    target = load_checkpoint(ctx.input("models/target"), resolve_device(ctx.params.compute.device))
    recipe = sft_recipe(ctx.params, plan.protocol, share)
    trained = train(target, samples, recipe, ctx.progress)
    benchmark = ctx.samples("benchmark")
    settings = ctx.params.evaluate.model_dump()
    result = evaluate(target, benchmark, **settings, progress=ctx.progress)
    record = _named(ctx, plan, share) | {"accuracy": result.accuracy, "by_task": result.by_task}
    record |= {"samples": len(samples), "steps": recipe.steps}
    record |= {"train_seconds": trained.cost.seconds, "train_flops": trained.cost.flops}
    write_json(ctx.output(f"trials/{plan.key}.json"), record)
    row = priced(record, choosing_cost(ctx.root, plan))
    metrics = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
    metrics |= {f"accuracy/{task or 'untitled'}": value for task, value in result.by_task.items()}
    labels = {"arm": plan.subset.arm, "protocol": plan.protocol, "subset": plan.subset.key}
    read = {"benchmark": benchmark, plan.subset.key: samples}
    digests = {name: content_digest(own.ids()) for name, own in read.items()}
    return Outcome(metrics | {"loss": trained.loss}, Cost(watch.seconds), datasets=digests, labels=labels)


def _lessons(ctx: Context, plan: Trial) -> tuple[Samples, float]:
    """What is trained on, and how large it is as a share of the pool."""
    pool = ctx.samples("pool")
    samples: Samples = pool.subset(kept_ids(read_table(ctx.input(f"selections/{plan.subset.key}.parquet"))))
    if ARMS[plan.subset.arm].with_anchors:
        samples = Joined(samples, ctx.samples("anchors"))
    return samples, len(samples) / len(pool)


def _named(ctx: Context, plan: Trial, share: float) -> dict:
    subset = plan.subset
    fraction = share if ARMS[subset.arm].whole else subset.fraction
    return {
        "arm": subset.arm,
        "subset": subset.key,
        "fraction": fraction,
        "protocol": plan.protocol,
        "seed": ctx.params.seed,
    }
