"""LLM-as-a-Judge by rejection sampling: a model answers or grades, and a sample stays where it agrees.

The paper's own rival arm (arXiv:2605.07488, its comparison): a 235B model kept about 81 % of the pool. Of a
conversation the last answer is judged; what comes before it is shown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ost.baselines.changed import Changed
from ost.data import Sample, chat
from ost.evaluation.evaluate import RIGHT
from ost.evaluation.generate import generate
from ost.evaluation.metrics import AUTO, metrics_by_task, scores_of
from ost.execution.forward import forward_flops
from ost.models import Checkpoint
from ost.settings import Execution
from ost.types import JudgeMode, Progress, silent

GRADING = (
    "Question: {question}\n\nProposed answer: {answer}\n\n"
    "Is the proposed answer right? Work it out for yourself first, then end with one word: yes or no."
)
"""What a grading judge is asked, beside the sample's images."""


class Chat(Protocol):
    """A model that completes chat turns: in this process, or behind a server."""

    prompt_tokens: int
    completion_tokens: int
    flops: float
    """0 where a server does not tell."""
    earlier: float
    """Seconds that answers took which an earlier run had kept."""
    refusal: str
    """Why it gave no answer to the last sample that it gave none to."""

    def complete(self, samples: Sequence[Sample], progress: Progress = silent) -> list[str | None]:
        """The model's own last message for each sample, whose own last message it never sees; None for no answer."""


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of N samples."""

    replies: list[str | None]
    """None where it gave no answer."""
    agrees: np.ndarray
    """(N,) bool; false where it gave none."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Task → name of the metric by which replies were compared with answers; nothing of a judge that grades."""

    @property
    def share(self) -> float:
        """Share of the samples that it agrees with."""
        return float(self.agrees.mean())

    @property
    def unanswered(self) -> list[int]:
        """Indices of the samples that it gave no answer to."""
        return [index for index, reply in enumerate(self.replies) if reply is None]


def judge(
    samples: Sequence[Sample],
    model: Chat,
    mode: JudgeMode,
    metric: str | Mapping[str, str] = AUTO,
    progress: Progress = silent,
) -> Verdicts:
    """Whether the model agrees with each sample's answer; no more samples are held than the model asks for at a time.

    `answer`: it answers for itself, and agrees where that scores RIGHT by the metric beside the sample's
    answer; `auto` is decided for each task by the answers of these samples.
    `grade`: it is shown the answer and asked; a reply that holds neither yes nor no is no agreement.
    """
    if mode == "grade":
        replies = model.complete(Changed(samples, _graded), progress)
        agrees = [reply is not None and _says_yes(reply) for reply in replies]
        return Verdicts(replies, np.array(agrees, dtype=bool))
    replies, references = model.complete(samples, progress), [(sample.task, sample.answer) for sample in samples]
    agrees = np.array(scores_of(metric, replies, references)) >= RIGHT
    return Verdicts(replies, agrees, metrics_by_task(metric, references))


class LocalChat:
    """A checkpoint in this process, answering greedily."""

    refusal, earlier = "", 0.0

    def __init__(self, checkpoint: Checkpoint, max_new_tokens: int = 16, execution: Execution | None = None):
        self.checkpoint, self.max_new_tokens, self.execution = checkpoint, max_new_tokens, execution
        self.prompt_tokens = self.completion_tokens = 0
        self.flops = 0.0
        """A forward pass over each prompt, and twice the parameters for each token that is written."""

    def complete(self, samples: Sequence[Sample], progress: Progress = silent) -> list[str]:
        """See `Chat.complete`; it answers all."""
        said = generate(
            self.checkpoint,
            samples,
            max_new_tokens=self.max_new_tokens,
            execution=self.execution,
            progress=progress,
        )
        self.prompt_tokens += said.prompt_tokens
        self.completion_tokens += said.completion_tokens
        parameters = sum(weight.numel() for weight in self.checkpoint.model.parameters())
        read = forward_flops(self.checkpoint, samples, self.execution, "prompts") * len(samples)
        self.flops += read + 2 * parameters * said.completion_tokens
        return said.texts


def _graded(sample: Sample) -> Sample:
    """The question of grading a sample, as a sample; its last message stands in for the reply."""
    question = GRADING.format(question=sample.question, answer=sample.answer)
    return Sample(sample.images, chat(question, "", images=len(sample.images)), sample.task)


def _says_yes(reply: str) -> bool:
    """Whether the last yes or no of a reply is a yes."""
    verdicts = [word for word in re.findall(r"[^\W\d_]+", reply.lower()) if word in ("yes", "no")]
    return verdicts[-1:] == ["yes"]
