"""Conversations about handwritten digits: two to four of handmath's questions about one picture, one after the other.

Each question of the pool is answered by itself, rightly or wrongly, whatever was answered before, so that most
conversations with a wrong turn have right ones too. Anchors are conversations that are right throughout. Bases and
teacher learn from single questions, and the benchmark asks such: what a model reads in a picture that no earlier answer
tells it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ost.data import Sample, chat
from ost.worlds import handmath
from ost.worlds.handmath import KNOWN, LESSONS, QUESTIONS, TASKS, TEACHER_LESSONS, Task, answer, mistaken, processor
from ost.worlds.world import SPLITS, Split

__all__ = ["KNOWN", "LESSONS", "TASKS", "TEACHER_LESSONS", "answer", "draw", "mistaken", "processor", "to_sample"]

SPOKEN: tuple[Split, ...] = ("pool", "anchors")
"""The splits whose problems are conversations."""
MOST = 4
"""Questions of a conversation, no kind twice."""


@dataclass(frozen=True, slots=True)
class Talk:
    """Some questions about one picture."""

    questions: tuple[handmath.Problem, ...]
    task: str = "talk"


def draw(
    split: Split, count: int, seed: int, among: Sequence[Task] | None = None, stream: int = 0
) -> list[Talk | handmath.Problem]:
    """`count` distinct problems of a split; a conversation begins with the one that handmath draws.

    As many begin with each kind of question as with any other. Raises ConfigError as handmath does.
    """
    first, kinds = handmath.draw(split, count, seed, among, stream), list(among or TASKS)
    if split not in SPOKEN:
        return first
    rng = np.random.default_rng([seed, SPLITS.index(split), stream, len(kinds)])
    return [_talk(problem, kinds, rng) for problem in first]


def to_sample(problem: Talk | handmath.Problem, *texts: str) -> Sample:
    """The problem as a sample, answered by a text a question or, without any, rightly."""
    if isinstance(problem, handmath.Problem):
        return handmath.to_sample(problem, *texts)
    image = handmath.picture(problem.questions[0].left, problem.questions[0].right)
    said = zip(problem.questions, texts or map(answer, problem.questions), strict=True)
    turns = [chat(QUESTIONS[asked.task], text, images=int(not at)) for at, (asked, text) in enumerate(said)]
    return Sample((image,), tuple(message for turn in turns for message in turn), problem.task)


def _talk(first: handmath.Problem, kinds: Sequence[Task], rng: np.random.Generator) -> Talk:
    others = [kind for kind in kinds if kind != first.task]
    count = int(rng.integers(1, MOST))
    asked = [others[place] for place in rng.permutation(len(others))[:count]]
    return Talk((first, *(handmath.Problem(first.left, first.right, kind) for kind in asked)))
