"""Who answers the pool wrongly: rules that err, or a small model that was trained on what they wrote."""

from collections.abc import Sequence

import numpy as np

from ost.config import Base
from ost.config import World as Settings
from ost.data import Sample
from ost.evaluation import generate
from ost.models import Checkpoint
from ost.models.tiny import TARGET, build_model
from ost.training import Recipe, train
from ost.types import Progress, silent
from ost.worlds.world import Problem, World

SPOILING_SHARE = 0.4
"""Share of the teacher's steps that it learns from wrong answers."""


def wrong_answers(world: World, problems: Sequence[Problem], settings: Settings, seed: int) -> list[str]:
    """Answers by the world's rules."""
    rng = np.random.default_rng([seed, 4])
    return [world.mistaken(problem, settings, rng) for problem in problems]


def train_teacher(world: World, settings: Settings, base: Base, seed: int, progress: Progress = silent) -> Checkpoint:
    """A model of the target's size that learned every task from right answers, then from systematically wrong ones."""
    problems = world.draw("pretrain", 12_000, seed, stream=1)
    right = list(map(world.answer, problems))
    wrong = wrong_answers(world, problems, settings, seed)
    shared = world.processor()
    teacher = Checkpoint(build_model(TARGET, shared, seed + 1), shared)
    spoiling = round(SPOILING_SHARE * settings.teacher_steps)
    for texts, steps, rate in ((right, settings.teacher_steps - spoiling, 1.0), (wrong, spoiling, 0.5)):
        samples = [world.to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
        learning_rate = rate * base.learning_rate
        recipe = Recipe(steps=steps, batch_size=base.batch_size, learning_rate=learning_rate, seed=seed)
        train(teacher, samples, recipe, progress)
    return teacher


def answer_pool(
    world: World, problems: Sequence[Problem], settings: Settings, base: Base, seed: int, progress: Progress = silent
) -> tuple[list[Sample], list[bool]]:
    """The pool as the faulty teacher wrote it, and beside it whether each answer is wrong."""
    if settings.errors == "rules":
        texts = wrong_answers(world, problems, settings, seed)
    else:
        teacher = train_teacher(world, settings, base, seed, progress)
        questions = list(map(world.to_sample, problems))
        texts = generate(teacher, questions, temperature=settings.temperature, seed=seed).texts
    samples = [world.to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
    wrong = [text != world.answer(problem) for problem, text in zip(problems, texts, strict=True)]
    return samples, wrong
