"""Who answers the pool wrongly: rules that err, a small model that was trained on what they wrote, or chance."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ost.data import Sample
from ost.data.sample import text_of
from ost.evaluation.generate import generate
from ost.models import Checkpoint
from ost.settings import BUILTIN
from ost.training import Recipe, train
from ost.types import Progress, silent
from ost.worlds.settings import Base
from ost.worlds.settings import World as Settings
from ost.worlds.tiny import TARGET, build
from ost.worlds.world import Problem, World, questions_of

SPOILING_SHARE = 0.4
"""Share of the teacher's steps that it learns from wrong answers."""


def wrong_answers(world: World, problems: Sequence[Problem], settings: Settings, seed: int) -> list[str]:
    """Answers by the world's rules."""
    rng = np.random.default_rng([seed, 4])
    return [world.mistaken(problem, settings, rng) for problem in problems]


def train_teacher(world: World, settings: Settings, base: Base, seed: int, progress: Progress = silent) -> Checkpoint:
    """A model of the target's size that learned every task from right answers, then from systematically wrong ones."""
    problems = world.draw("pretrain", world.TEACHER_LESSONS, seed, stream=1)
    right = list(map(world.answer, problems))
    wrong = wrong_answers(world, problems, settings, seed)
    teacher = build(BUILTIN, TARGET, world.processor(), seed + 1)
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
    """The pool as the faulty teacher wrote it, and beside it whether any answer of each sample is wrong.

    Each question of a conversation is answered by itself.
    """
    asked = list(map(questions_of, problems))
    every = list(itertools.chain.from_iterable(asked))
    right = list(map(world.answer, every))
    texts = right if settings.wrong_share == 0 else _written(world, every, settings, base, seed, progress)
    if settings.wrong_share is not None:
        texts = _mixed(world, every, right, texts, settings, seed)
    said, true = ([tuple(itertools.islice(one, len(own))) for own in asked] for one in (iter(texts), iter(right)))
    samples = [world.to_sample(problem, *answers) for problem, answers in zip(problems, said, strict=True)]
    return samples, [answers != known for answers, known in zip(said, true, strict=True)]


def turn_truth(samples: Sequence[Sample], right: Sequence[Sample]) -> pa.Table:
    """A row `id, turn, wrong` a learned turn: whether it says something else than in the sample that is right."""
    rows = [
        {"id": one.id, "turn": turn, "wrong": text_of(one.messages[turn]) != text_of(true.messages[turn])}
        for one, true in zip(samples, right, strict=True)
        for turn in one.learned
    ]
    return pa.Table.from_pylist(rows, pa.schema({"id": pa.string(), "turn": pa.int32(), "wrong": pa.bool_()}))


def _written(
    world: World, problems: Sequence[Problem], settings: Settings, base: Base, seed: int, progress: Progress
) -> list[str]:
    if settings.errors == "rules":
        return wrong_answers(world, problems, settings, seed)
    if settings.errors == "chance":
        return _of_others(world, problems, seed)
    teacher = train_teacher(world, settings, base, seed, progress)
    questions = list(map(world.to_sample, problems))
    return generate(teacher, questions, temperature=settings.temperature, seed=seed).texts


def _of_others(world: World, problems: Sequence[Problem], seed: int) -> list[str]:
    """The right answers, dealt at random among the questions of a task: errors without a direction."""
    rng, places = np.random.default_rng([seed, 6]), dict[str, list[int]]()
    for at, problem in enumerate(problems):
        places.setdefault(problem.task, []).append(at)
    dealt = {at: other for own in places.values() for at, other in zip(own, rng.permutation(own), strict=True)}
    return [world.answer(problems[dealt[at]]) for at in range(len(problems))]


def _mixed(
    world: World, problems: Sequence[Problem], right: list[str], texts: list[str], settings: Settings, seed: int
) -> list[str]:
    """The answers with `wrong_share` of them wrong; fewer where the rules cannot make more."""
    rng = np.random.default_rng([seed, 5])
    wrong = np.array([text != true for text, true in zip(texts, right, strict=True)])
    missing = round(settings.wrong_share * len(texts)) - int(wrong.sum())
    mixed, certain = list(texts), settings.model_copy(update={"misread": 1.0})
    now_wrong, now_right = rng.permutation(np.flatnonzero(wrong)), rng.permutation(np.flatnonzero(~wrong))
    for index in now_wrong[: max(0, -missing)]:
        mixed[index] = right[index]
    for index in now_right if missing > 0 else ():
        mixed[index] = world.mistaken(problems[index], certain, rng)
        missing -= mixed[index] != right[index]
        if not missing:
            break
    return mixed
