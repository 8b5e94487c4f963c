"""Who answers the pool wrongly: rules that misread digits, or a small model that was trained on what they wrote."""

from collections.abc import Sequence

import numpy as np

from ost.config import Base, Task, World
from ost.data import Sample
from ost.evaluation import generate
from ost.handmath.world import Problem, answer, draw, processor, to_sample
from ost.models import Checkpoint
from ost.models.tiny import TARGET, build_model
from ost.training import Recipe, train
from ost.types import Progress, silent

MISREAD = {1: 7, 3: 8, 5: 6, 9: 4}
"""Digits that the teacher confuses, and what it takes them for: errors with a direction do not average out."""

SLIPS: dict[Task, Task] = {"sum": "product", "product": "sum", "difference": "maximum", "maximum": "difference"}
"""The operation that the teacher applies instead of the one asked for, when it slips."""

SPOILING_SHARE = 0.4
"""Share of the teacher's steps that it learns from wrong answers."""


def wrong_answers(problems: Sequence[Problem], world: World, seed: int) -> list[str]:
    """Answers by rule: confusable digits misread by chance, and at times another operation applied."""
    rng = np.random.default_rng([seed, 4])
    answers = []
    for problem in problems:
        read = [MISREAD.get(d, d) if rng.random() < world.misread else d for d in problem.digits]
        task = SLIPS[problem.task] if rng.random() < world.wrong_operation else problem.task
        answers.append(answer(task, *read))
    return answers


def train_teacher(world: World, base: Base, seed: int, progress: Progress = silent) -> Checkpoint:
    """A model of the target's size that learned every task from right answers, then from systematically wrong ones."""
    problems = draw("pretrain", 12_000, seed, stream=1)
    right = [answer(problem.task, *problem.digits) for problem in problems]
    wrong = wrong_answers(problems, world, seed)
    shared = processor()
    teacher = Checkpoint(build_model(TARGET, shared, seed + 1), shared)
    spoiling = round(SPOILING_SHARE * world.teacher_steps)
    for texts, steps, rate in ((right, world.teacher_steps - spoiling, 1.0), (wrong, spoiling, 0.5)):
        samples = [to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
        learning_rate = rate * base.learning_rate
        recipe = Recipe(steps=steps, batch_size=base.batch_size, learning_rate=learning_rate, seed=seed)
        train(teacher, samples, recipe, progress)
    return teacher


def answer_pool(
    problems: Sequence[Problem], world: World, base: Base, seed: int, progress: Progress = silent
) -> tuple[list[Sample], list[bool]]:
    """The pool as the faulty teacher wrote it, and beside it whether each answer is wrong."""
    if world.errors == "rules":
        texts = wrong_answers(problems, world, seed)
    else:
        teacher = train_teacher(world, base, seed, progress)
        questions = [to_sample(problem) for problem in problems]
        texts = generate(teacher, questions, temperature=world.temperature, seed=seed)
    samples = [to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
    wrong = [text != answer(problem.task, *problem.digits) for problem, text in zip(problems, texts, strict=True)]
    return samples, wrong
