"""Arithmetic in words, without images: whether the method carries over to a text-only model.

Two numbers below twenty, written as words, and four kinds of question in many wordings; answers are short thoughts in
figures: "17 + 5 = 22". Where another world's teacher sees wrongly, this one reads wrongly.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from ost.data import Sample, chat
from ost.errors import ConfigError
from ost.worlds.handmath import SLIPS, TASKS, worked
from ost.worlds.settings import World
from ost.worlds.tiny import build_processor
from ost.worlds.world import SPLITS, Split

KNOWN = ("difference", "product")
"""The tasks that the base models were pretrained on: the two hard ones."""
LESSONS, TEACHER_LESSONS = 4_800, 9_600
"""Problems that bases and teacher learned from."""

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
OPENINGS = ("", "Please: ", "A question. ", "Tell me: ")
QUESTIONS = {
    "sum": (
        "what is {a} plus {b}?",
        "add {a} and {b}.",
        "what do {a} and {b} make together?",
        "the sum of {a} and {b}?",
    ),
    "difference": ("what is {a} minus {b}?", "take {b} from {a}.", "what is {a} without {b}?", "{a} less {b}?"),
    "product": (
        "what is {a} times {b}?",
        "multiply {a} by {b}.",
        "the product of {a} and {b}?",
        "how many are {a} {b}s?",
    ),
    "maximum": (
        "which is larger, {a} or {b}?",
        "the maximum of {a} and {b}?",
        "the larger of {a} and {b}?",
        "{a} or {b}?",
    ),
}
MISREAD = {3: 13, 4: 14, 6: 16, 7: 17, 8: 18, 11: 1, 12: 20, 15: 5}
"""Numbers that the teacher confuses, and what it takes them for: errors with a direction do not average out."""

SHARES: dict[Split, float] = {"pretrain": 0.40, "pool": 0.40, "anchors": 0.05, "benchmark": 0.15}
"""Share of all 25,600 questions that each split owns."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Two numbers, what is asked about them, and in which wording."""

    a: int
    b: int
    task: str
    wording: str


def answer(problem: Problem) -> str:
    """The right answer."""
    return worked(problem.task, problem.a, problem.b)


def mistaken(problem: Problem, settings: World, rng: np.random.Generator) -> str:
    """An answer by the teacher's rules: confusable numbers misread by chance, and at times another operation."""
    read = [MISREAD.get(n, n) if rng.random() < settings.misread else n for n in (problem.a, problem.b)]
    task = SLIPS[problem.task] if rng.random() < settings.wrong_operation else problem.task
    return worked(task, *read)


def draw(split: Split, count: int, seed: int, among: Sequence[str] | None = None, stream: int = 0) -> list[Problem]:
    """`count` distinct problems of a split's own, evenly over the tasks `among`.

    Raises ConfigError where the split has fewer.
    """
    among = among or TASKS
    rng = np.random.default_rng([seed, SPLITS.index(split), stream])
    own = {task: [problem for problem in _split(seed)[split] if problem.task == task] for task in among}
    each = -(-count // len(among))
    if any(len(problems) < each for problems in own.values()):
        raise ConfigError(f"the {split} part of wordmath has no {count:,} questions of {', '.join(among)}")
    drawn = [[problems[index] for index in rng.permutation(len(problems))[:each]] for problems in own.values()]
    return [problem for turn in zip(*drawn, strict=True) for problem in turn][:count]


def to_sample(problem: Problem, text: str | None = None) -> Sample:
    """The problem as a sample, answered by `text` or, without one, rightly."""
    question = problem.wording.format(a=NUMBERS[problem.a], b=NUMBERS[problem.b])
    return Sample((), chat(question, answer(problem) if text is None else text, images=0), problem.task)


def processor() -> PreTrainedTokenizerFast:
    """The tokenizer that all models of this world share."""
    questions = [to_sample(problem).question for problem in _problems()[::7]]
    return build_processor([*questions, *map(answer, _problems()[::16])]).tokenizer


@functools.cache
def _problems() -> list[Problem]:
    wordings = {
        task: [opening + (text if opening else text[0].upper() + text[1:]) for opening in OPENINGS for text in texts]
        for task, texts in QUESTIONS.items()
    }
    pairs = list(itertools.product(range(len(NUMBERS)), repeat=2))
    return [Problem(a, b, task, wording) for task in TASKS for wording in wordings[task] for a, b in pairs]


@functools.cache
def _split(seed: int) -> dict[Split, list[Problem]]:
    problems = _problems()
    order = np.random.default_rng([seed, 20]).permutation(len(problems))
    ends = np.round(np.cumsum(list(SHARES.values())) * len(problems)).astype(int)
    parts = np.split(order, ends[:-1])
    return {split: [problems[index] for index in part] for split, part in zip(SHARES, parts, strict=True)}
