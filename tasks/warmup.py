"""Stage `warmup`: a short training of the proxy on the pool."""

import random

from ost.data import content_digest
from ost.models import add_adapter, load_checkpoint, resolve_device
from ost.training import Recipe, train
from tasks.context import Context, Outcome


def warmup(ctx: Context) -> Outcome:
    """Train the proxy for a small share of an SFT run's steps; a converged proxy would have fitted the pool's noise."""
    params, sft = ctx.params, ctx.params.sft
    proxy = load_checkpoint(ctx.input("models/proxy"), resolve_device(params.compute.device))
    pool = ctx.samples("data/pool.parquet")
    steps = max(1, round(params.warmup.fraction * sft.steps))
    seen = random.Random(params.seed).sample(pool, min(len(pool), steps * sft.batch_size))
    recipe = Recipe(steps=steps, batch_size=sft.batch_size, learning_rate=params.warmup.learning_rate, seed=params.seed)
    if params.warmup.lora_rank:
        add_adapter(proxy.model, params.warmup.lora_rank, params.seed)
    trained = train(proxy, seen, recipe, ctx.progress)
    proxy.second_moment = trained.second_moment
    proxy.save(ctx.output("models/proxy-warm"))
    digests = {"warm-up": content_digest(sample.id for sample in seen)}
    return Outcome({"loss": trained.loss, "steps": float(steps)}, trained.cost, datasets=digests)
