"""Stage `warmup`: a short training of the proxy on the pool."""

from ost.data import content_digest
from ost.models import add_adapter, load_checkpoint, resolve_device
from ost.training import train
from ost.warmup import warmup_data
from tasks.stages.context import Context, Outcome


def warmup(ctx: Context) -> Outcome:
    """Train the proxy for a small share of an SFT run's steps; a converged proxy would have fitted the pool's noise."""
    params = ctx.params
    proxy = load_checkpoint(ctx.input("models/proxy"), resolve_device(params.compute.device))
    recipe, seen = warmup_data(params, ctx.samples("pool"), proxy.model.num_parameters())
    if params.warmup.lora_rank:
        add_adapter(proxy.model, params.warmup.lora_rank, params.seed)
    if not params.warmup.fraction:
        proxy.save(ctx.output("models/proxy-warm"))
        return Outcome({"steps": 0.0})
    parts = [seen.ids(), vars(recipe), params.warmup.lora_rank, ctx.digest("models/proxy")]
    saved = ctx.saved_training(parts)
    trained = train(proxy, seen, recipe, ctx.progress, execution=params.compute, saved=saved)
    proxy.second_moment = trained.moments.corrected_second()
    proxy.save(ctx.output("models/proxy-warm"))
    saved.forget()
    digests = {"warm-up": content_digest(seen.ids())}
    metrics = {"loss": trained.loss, "steps": float(recipe.steps), "learning_rate": recipe.learning_rate}
    return Outcome(metrics, trained.cost, datasets=digests, curves=trained.curves)
