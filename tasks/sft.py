"""Stage `sft`: fine-tune the target on one arm's samples, under one protocol."""

from ost.data import content_digest
from ost.models import load_checkpoint, resolve_device
from ost.selection import kept_ids
from ost.store import read_table
from ost.training import Recipe, train
from tasks.context import Context, Outcome
from tasks.runs import Run


def sft(ctx: Context) -> Outcome:
    """Protocol B takes as many steps as Full-SFT; protocol A as many epochs, so fewer steps for a smaller subset."""
    run, settings = Run.parse(ctx.key), ctx.params.sft
    pool = {sample.id: sample for sample in ctx.samples("data/pool.parquet")}
    kept = kept_ids(read_table(ctx.input(f"selections/{run.arm}.parquet")))
    target = load_checkpoint(ctx.input("models/target"), resolve_device(ctx.params.compute.device))
    steps = settings.steps if run.protocol == "B" else max(1, round(settings.steps * len(kept) / len(pool)))
    recipe = Recipe(
        steps=steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_ratio=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        seed=ctx.params.seed,
    )
    trained = train(target, [pool[name] for name in kept], recipe, ctx.progress)
    target.save(ctx.output(f"models/sft/{run.key}"))
    metrics = {"loss": trained.loss, "steps": float(steps), "samples": float(len(kept))}
    return Outcome(metrics, trained.cost, datasets={run.arm: content_digest(kept)})
