"""Stage `base`: the base checkpoint of target or proxy, with its bytes under version control."""

from typing import Literal

from ost.cost import Cost, Stopwatch
from ost.models import Checkpoint, commit_of, limit_image_tokens, load_checkpoint
from ost.settings import BUILTIN, LLAVA
from ost.training import Recipe, train
from ost.worlds import world_of
from ost.worlds.tiny import PROXY, TARGET, build, sized
from tasks.pipeline import weight_folders
from tasks.stages.context import Context, Outcome

Role = Literal["target", "proxy", "judge"]

JUDGE_SEED = 1000
"""Added to the seed for the judge, which is a model of its own although it has the target's sizes."""


def base(ctx: Context) -> Outcome:
    """Fetch the named checkpoint, or pretrain the built-in world's own on clean samples of some tasks."""
    role: Role = ctx.key
    name = getattr(ctx.params.models, role)
    if name in (BUILTIN, LLAVA):
        checkpoint, outcome = _pretrained(ctx, role)
    else:
        checkpoint, outcome = _fetched(ctx, name)
    if most := ctx.params.data.max_image_tokens:
        limit_image_tokens(checkpoint.processor, most, checkpoint.model.config)
    checkpoint.save(ctx.output(f"models/{role}"))
    return outcome


def _fetched(ctx: Context, name: str) -> tuple[Checkpoint, Outcome]:
    watch = Stopwatch()
    own = list(map(ctx.input, weight_folders(ctx.root, name)))
    checkpoint = load_checkpoint(own[0] if own else name)
    labels = {"revision": commit} if (commit := commit_of(ctx.root / name if own else name)) else {}
    return checkpoint, Outcome(cost=Cost(watch.seconds), warnings=list(checkpoint.notes), labels=labels)


def _pretrained(ctx: Context, role: Role) -> tuple[Checkpoint, Outcome]:
    seed, settings, world = ctx.params.seed, ctx.params.base, world_of(ctx.params.world.name)
    spec = sized(PROXY if role == "proxy" else TARGET, getattr(settings, f"{role}_width"))
    steps = getattr(settings, f"{role}_steps")
    tasks = world.TASKS if role == "judge" else settings.tasks or world.KNOWN
    seed += JUDGE_SEED if role == "judge" else 0
    checkpoint = build(getattr(ctx.params.models, role), spec, world.processor(), seed)
    problems = world.draw("pretrain", world.LESSONS, ctx.params.seed, tasks)
    recipe = Recipe(steps=steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate, seed=seed)
    trained = train(checkpoint, list(map(world.to_sample, problems)), recipe, ctx.progress)
    return checkpoint, Outcome({"loss": trained.loss}, trained.cost)
