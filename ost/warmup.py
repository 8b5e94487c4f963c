"""The proxy's warm-up: a short training on the pool before it scores."""

import random

from ost.data import Dataset, Samples
from ost.settings import Settings
from ost.training import Recipe, usual_rate


def warmup_data(settings: Settings, pool: Dataset, weights: int) -> tuple[Recipe, Samples]:
    """How a proxy of so many weights is warmed up, and the samples, drawn by the seed, that it sees."""
    warmup, sft = settings.warmup, settings.sft
    recipe = Recipe(
        steps=max(1, round(warmup.fraction * sft.steps_over(len(pool)))),
        batch_size=sft.batch_size,
        learning_rate=warmup.learning_rate or usual_rate(weights, bool(warmup.lora_rank)),
        seed=settings.seed,
    )
    ids, seen = pool.ids(), recipe.steps * recipe.batch_size
    return recipe, pool.subset(random.Random(settings.seed).sample(ids, min(len(ids), seen)))
