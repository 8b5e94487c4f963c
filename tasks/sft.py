"""Stage `sft`: fine-tune the target on one arm's samples, under one protocol."""

from ost.config import Params
from ost.data import content_digest
from ost.models import load_checkpoint, resolve_device
from ost.selection import kept_ids
from ost.store import read_table
from ost.training import Recipe, train
from ost.types import Protocol_
from tasks.context import Context, Outcome
from tasks.runs import Run


def sft(ctx: Context) -> Outcome:
    """Protocol B takes as many steps as Full-SFT; protocol A as many epochs, so fewer steps for a smaller subset."""
    run = Run.parse(ctx.key)
    pool = ctx.samples("pool")
    kept = kept_ids(read_table(ctx.input(f"selections/{run.arm}.parquet")))
    target = load_checkpoint(ctx.input("models/target"), resolve_device(ctx.params.compute.device))
    recipe = sft_recipe(ctx.params, run.protocol, len(kept) / len(pool))
    trained = train(target, pool.subset(kept), recipe, ctx.progress)
    target.save(ctx.output(f"models/sft/{run.key}"))
    metrics = {"loss": trained.loss, "steps": float(recipe.steps), "samples": float(len(kept))}
    return Outcome(metrics, trained.cost, datasets={run.arm: content_digest(kept)})


def sft_recipe(params: Params, protocol: Protocol_, share: float) -> Recipe:
    """How a target is trained on a share of the pool under a protocol."""
    steps = params.sft.steps if protocol == "B" else max(1, round(params.sft.steps * share))
    return Recipe(**(params.sft.model_dump() | {"steps": steps, "seed": params.seed}))
