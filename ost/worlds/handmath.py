"""Handwritten arithmetic: problems, images, right answers, and the rules by which a teacher errs.

The digits are the 1,797 real ones of scikit-learn's `load_digits` (8 × 8 pixels, 16 grey levels). They are divided into
four parts that share no image: for pretraining, the pool, the anchors and the benchmark.
"""

import functools
import io
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ost.data import Sample, chat
from ost.errors import ConfigError
from ost.models.processor import ImageOnlyQwen3VLProcessor
from ost.worlds.settings import World
from ost.worlds.tiny import build_processor
from ost.worlds.world import SPLITS, Split

Task = Literal["sum", "difference", "product", "maximum"]
TASKS: tuple[Task, ...] = typing.get_args(Task)
KNOWN: tuple[Task, ...] = ("difference", "product")
"""The tasks that the base models were pretrained on: the two hard ones."""
LESSONS, TEACHER_LESSONS = 20_000, 12_000
"""Problems that bases and teacher learned from."""

SHARES: dict[Split, float] = {"pretrain": 0.40, "pool": 0.35, "anchors": 0.10, "benchmark": 0.15}
"""Share of the 1,797 digits that each split owns."""

EDGE = 16
"""Edge of one digit in the composed image, in pixels: the image is 32 × 16."""

QUESTIONS: dict[Task, str] = {
    "sum": "What is the sum of the two digits?",
    "difference": "What is the first digit minus the second?",
    "product": "What is the product of the two digits?",
    "maximum": "Which of the two digits is larger?",
}


MISREAD = {1: 7, 3: 8, 5: 6, 9: 4}
"""Digits that the teacher confuses, and what it takes them for: errors with a direction do not average out."""

SLIPS: dict[Task, Task] = {"sum": "product", "product": "sum", "difference": "maximum", "maximum": "difference"}
"""The operation that the teacher applies instead of the one asked for, when it slips."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Two handwritten digits, by their index in `load_digits`, and what is asked about them."""

    left: int
    right: int
    task: Task

    @property
    def digits(self) -> tuple[int, int]:
        """The two values that were written."""
        labels = _digits()[1]
        return int(labels[self.left]), int(labels[self.right])


def answer(problem: Problem) -> str:
    """The right answer."""
    return worked(problem.task, *problem.digits)


def mistaken(problem: Problem, settings: World, rng: np.random.Generator) -> str:
    """An answer by the teacher's rules: confusable digits misread by chance, and at times another operation."""
    read = [MISREAD.get(d, d) if rng.random() < settings.misread else d for d in problem.digits]
    task = SLIPS[problem.task] if rng.random() < settings.wrong_operation else problem.task
    return worked(task, *read)


def worked(task: Task, a: int, b: int) -> str:
    """The short chain of thought that answers `task` for digits a and b."""
    match task:
        case "sum":
            return f"{a} + {b} = {a + b}"
        case "difference":
            return f"{a} - {b} = {a - b}"
        case "product":
            return f"{a} * {b} = {a * b}"
        case "maximum":
            return f"{a} max {b} = {max(a, b)}"


def draw(split: Split, count: int, seed: int, among: Sequence[Task] | None = None, stream: int = 0) -> list[Problem]:
    """`count` distinct problems on a split's own digits, as many of each task as of any other.

    Every ordered pair of digit values comes equally often in expectation. The seed fixes which digits a split owns;
    `stream` names independent draws from one split. Raises ConfigError where there are not half as many again.
    """
    among = among or TASKS
    rng = np.random.default_rng([seed, SPLITS.index(split), stream])
    by_value = [np.array(indices) for indices in _split(seed)[split]]
    there = len(among) * sum(map(len, by_value)) ** 2
    if count > there / 1.5:  # drawing at random would take too long
        raise ConfigError(f"the {split} part of handmath has {there:,} questions, too few to draw {count:,} from")
    problems: dict[Problem, None] = {}
    while len(problems) < count:
        task = among[len(problems) % len(among)]
        left, right = (int(rng.choice(by_value[value])) for value in rng.integers(10, size=2))
        problems.setdefault(Problem(left, right, task))
    return list(problems)


def to_sample(problem: Problem, text: str | None = None) -> Sample:
    """The problem as a sample, answered by `text` or, without one, rightly."""
    text = answer(problem) if text is None else text
    image = picture(problem.left, problem.right)
    return Sample(images=(image,), messages=chat(QUESTIONS[problem.task], text), task=problem.task)


@functools.lru_cache(maxsize=20_000)
def picture(left: int, right: int) -> bytes:
    """PNG of the two digits side by side, 32 × 16 pixels, dark on light."""
    images = _digits()[0]
    pair = np.hstack([images[left], images[right]])
    pixels = (255 - pair * (255 / 16)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((2 * EDGE, EDGE), Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return buffer.getvalue()


def processor() -> ImageOnlyQwen3VLProcessor:
    """The processor that all models of this world share; its tokenizer knows the world's words."""
    texts = [*QUESTIONS.values(), *(worked(task, a, b) for task in TASKS for a in range(10) for b in range(10))]
    return build_processor(texts)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    bundle = load_digits()
    return bundle.images, bundle.target


@functools.cache
def _split(seed: int) -> dict[Split, list[list[int]]]:
    """For each split, its digit indices by value; stratified, so that every split owns every value."""
    labels = _digits()[1]
    rng = np.random.default_rng([seed, 1797])
    parts: dict[Split, list[list[int]]] = {split: [] for split in SHARES}
    for value in range(10):
        indices = rng.permutation(np.flatnonzero(labels == value))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(indices)).astype(int)
        for split, chunk in zip(SHARES, np.split(indices, ends[:-1]), strict=True):
            parts[split].append(chunk.tolist())
    return parts
