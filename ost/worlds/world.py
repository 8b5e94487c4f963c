"""What a built-in world is: problems with a right answer, a rule by which a teacher errs, and a tokenizer for both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:  # the settings of a pipeline are read without any model
    import numpy as np
    from transformers import PreTrainedTokenizerBase
    from transformers.processing_utils import ProcessorMixin

    from ost.data import Sample
    from ost.worlds.settings import World as Settings

Split = Literal["pretrain", "pool", "anchors", "benchmark"]
"""Parts of a world that share no image: what bases and teacher learned from, and the three sample sets."""
SPLITS: tuple[Split, ...] = get_args(Split)


class Problem(Protocol):
    """One question about one image."""

    @property
    def task(self) -> str:
        """Kind of question."""


class World(Protocol):
    """A module of this folder."""

    TASKS: tuple[str, ...]
    """The kinds of question."""
    KNOWN: tuple[str, ...]
    """Those that the base models are pretrained on."""
    LESSONS: int
    """Problems that they are pretrained on."""
    TEACHER_LESSONS: int
    """Problems that the teacher learns from."""

    def draw(
        self, split: Split, count: int, seed: int, among: Sequence[str] | None = None, stream: int = 0
    ) -> list[Problem]:
        """`count` distinct problems of a split, evenly over the tasks `among`; `stream` names independent draws."""

    def answer(self, problem: Problem) -> str:
        """The right answer."""

    def mistaken(self, problem: Problem, settings: "Settings", rng: "np.random.Generator") -> str:
        """An answer as the teacher's rules make it, wrong by chance and with a direction."""

    def to_sample(self, problem: Problem, *texts: str) -> "Sample":
        """The problem as a sample, answered by a text for each of its `questions` or, without any, rightly."""

    def processor(self) -> "ProcessorMixin | PreTrainedTokenizerBase":
        """The processor that all models of the world share; in a world without images a tokenizer."""


def questions_of(problem: Problem) -> tuple[Problem, ...]:
    """What a problem asks, one after the other: the `questions` of a conversation, else itself alone."""
    return getattr(problem, "questions", (problem,))
