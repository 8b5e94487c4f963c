"""Stage `warmup`: a short training of the proxy on the pool."""

import random

from ost.config import Params
from ost.data import Dataset, Samples, content_digest
from ost.models import add_adapter, load_checkpoint, resolve_device
from ost.training import Recipe, train
from tasks.context import Context, Outcome


def warmup(ctx: Context) -> Outcome:
    """Train the proxy for a small share of an SFT run's steps; a converged proxy would have fitted the pool's noise."""
    params = ctx.params
    proxy = load_checkpoint(ctx.input("models/proxy"), resolve_device(params.compute.device))
    recipe, seen = warmup_lessons(params, ctx.samples("pool"))
    if params.warmup.lora_rank:
        add_adapter(proxy.model, params.warmup.lora_rank, params.seed)
    if not params.warmup.fraction:
        proxy.save(ctx.output("models/proxy-warm"))
        return Outcome({"steps": 0.0})
    trained = train(proxy, seen, recipe, ctx.progress)
    proxy.second_moment = trained.moments.corrected_second()
    proxy.save(ctx.output("models/proxy-warm"))
    digests = {"warm-up": content_digest(seen.ids())}
    return Outcome({"loss": trained.loss, "steps": float(recipe.steps)}, trained.cost, datasets=digests)


def warmup_lessons(params: Params, pool: Dataset) -> tuple[Recipe, Samples]:
    """How a proxy is warmed up, and the samples, drawn by the seed, that it sees."""
    recipe = Recipe(
        steps=max(1, round(params.warmup.fraction * params.sft.steps)),
        batch_size=params.sft.batch_size,
        learning_rate=params.warmup.learning_rate,
        seed=params.seed,
    )
    ids = pool.ids()
    return recipe, pool.subset(random.Random(params.seed).sample(ids, min(len(ids), recipe.steps * recipe.batch_size)))
