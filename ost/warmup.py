"""The proxy's warm-up: a short training on the pool before it scores."""

import random

from ost.data import Dataset, Samples
from ost.settings import Settings
from ost.training import Recipe


def warmup_data(settings: Settings, pool: Dataset) -> tuple[Recipe, Samples]:
    """How a proxy is warmed up, and the samples, drawn by the seed, that it sees."""
    recipe = Recipe(
        steps=max(1, round(settings.warmup.fraction * settings.sft.steps)),
        batch_size=settings.sft.batch_size,
        learning_rate=settings.warmup.learning_rate,
        seed=settings.seed,
    )
    ids, seen = pool.ids(), recipe.steps * recipe.batch_size
    return recipe, pool.subset(random.Random(settings.seed).sample(ids, min(len(ids), seen)))
