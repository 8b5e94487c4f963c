"""Stage `base`: the base checkpoint of target or proxy, with its bytes under version control."""

from typing import Literal

from ost.config import BUILTIN
from ost.cost import Cost, Stopwatch
from ost.models import Checkpoint, load_checkpoint
from ost.models.tiny import PROXY, TARGET, build_model
from ost.training import Recipe, train
from ost.worlds import WORLDS
from tasks.context import Context, Outcome

PRETRAINING_SAMPLES = 20_000


def base(ctx: Context) -> Outcome:
    """Fetch the named checkpoint, or pretrain the built-in world's own on clean samples of some tasks."""
    role: Literal["target", "proxy"] = ctx.key
    name = getattr(ctx.params.models, role)
    watch = Stopwatch()
    if name != BUILTIN:
        load_checkpoint(name).save(ctx.output(f"models/{role}"))
        return Outcome(cost=Cost(watch.seconds))
    checkpoint, outcome = _pretrained(ctx, role)
    checkpoint.save(ctx.output(f"models/{role}"))
    return outcome


def _pretrained(ctx: Context, role: Literal["target", "proxy"]) -> tuple[Checkpoint, Outcome]:
    seed, settings = ctx.params.seed, ctx.params.base
    spec, steps = (TARGET, settings.target_steps) if role == "target" else (PROXY, settings.proxy_steps)
    world = WORLDS[ctx.params.world.name]
    processor = world.processor()
    checkpoint = Checkpoint(build_model(spec, processor, seed), processor)
    problems = world.draw("pretrain", PRETRAINING_SAMPLES, seed, settings.tasks or world.KNOWN)
    recipe = Recipe(steps=steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate, seed=seed)
    trained = train(checkpoint, list(map(world.to_sample, problems)), recipe, ctx.progress)
    return checkpoint, Outcome({"loss": trained.loss}, trained.cost)
