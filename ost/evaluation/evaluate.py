"""Benchmark evaluation: greedy generation, then a metric of each task's own kind of answer."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ost.data import Sample
from ost.data.sample import image_digest
from ost.errors import ConfigError
from ost.evaluation.generate import LEAST_TOKENS, answer_limit, generate
from ost.evaluation.metrics import AUTO, metrics_by_task, metrics_named, references_of
from ost.evaluation.uncertainty import clusters_of, mean_interval
from ost.models import Checkpoint
from ost.settings import Execution
from ost.types import Progress, silent

RIGHT = 0.5
"""Score from which on an answer counts as right, where it has to be one or the other."""
MANY = 0.05
"""Share of answers that may be cut, or empty, without a word."""
LEAST_WORKED = 256
"""Tokens that an answer may take at least where some task's metric is `math`: it is worked out before it is given."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a benchmark, whole and by task, with what the model said."""

    accuracy: float
    """Mean score."""
    interval: tuple[float, float]
    """Of the accuracy, 95 %; see `mean_interval`."""
    by_task: dict[str, float]
    metrics: dict[str, str]
    """Task → name of its metric."""
    max_new_tokens: int | None
    """The limit of an answer that was in force; None where a suite's tasks have limits of their own."""
    predictions: list[str]
    """One text a sample, in the benchmark's order, as are scores, cut and clusters."""
    scores: list[float]
    cut: list[bool]
    """Whether the limit ended the answer."""
    clusters: np.ndarray
    """(N,) int32; samples of one number share images."""
    warnings: list[str]

    @property
    def correct(self) -> list[bool]:
        """Whether each answer is right: scores RIGHT at least."""
        return [score >= RIGHT for score in self.scores]

    @property
    def cut_share(self) -> float:
        """Share of the answers that the limit ended."""
        return fmean(self.cut)

    @property
    def empty_share(self) -> float:
        """Share of the answers that hold nothing."""
        return fmean(not text.strip() for text in self.predictions)


def evaluate(
    checkpoint: Checkpoint,
    benchmark: Sequence[Sample],
    *,
    metric: str | Mapping[str, str] = AUTO,
    max_new_tokens: int | None = None,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Answer every benchmark sample greedily and compare with its last message, or the references that this holds.

    `metric`: for all tasks or by task, or `auto` for what each task's references ask for. `max_new_tokens`: None for
    what suits the references; see `answer_limit`. Raises ConfigError for a metric that there is not.
    """
    images, references = [], []
    for sample in benchmark:
        images.append([image_digest(image) for image in sample.images])
        references.append((sample.task, sample.answer))
    names = metrics_by_task(metric, references)
    if not isinstance(metric, str) and (unknown := sorted(metric.keys() - names)):
        raise ConfigError(
            f"evaluate.metric names the task {unknown[0]!r}, and the benchmark's are {', '.join(map(repr, names))}"
        )
    metrics, split = metrics_named(names), [references_of(reference) for _, reference in references]
    if max_new_tokens is None:
        least = LEAST_WORKED if "math" in names.values() else LEAST_TOKENS
        max_new_tokens = answer_limit(checkpoint, (text for own in split for text in own), least)
    said = generate(checkpoint, benchmark, max_new_tokens=max_new_tokens, execution=execution, progress=progress)
    tasks = [task for task, _ in references]
    scores = [metrics[task](text, own) for task, text, own in zip(tasks, said.texts, split, strict=True)]
    by_task: dict[str, list[float]] = defaultdict(list)
    for task, score in zip(tasks, scores, strict=True):
        by_task[task].append(score)
    clusters = clusters_of(images)
    found = Evaluation(
        accuracy=fmean(scores),
        interval=mean_interval(scores, clusters),
        by_task={task: fmean(own) for task, own in sorted(by_task.items())},
        metrics=names,
        max_new_tokens=max_new_tokens,
        predictions=said.texts,
        scores=scores,
        cut=said.cut,
        clusters=clusters,
        warnings=[],
    )
    found.warnings.extend(_warnings(found, split))
    return found


def metrics_told(metrics: Mapping[str, str]) -> str:
    """Metrics with the tasks that they are for, such as "exact (sum, product), choice (which)"."""
    tasks: dict[str, list[str]] = defaultdict(list)
    for task, name in metrics.items():
        tasks[name].append(task or "untitled")
    return ", ".join(f"{name} ({', '.join(own)})" for name, own in sorted(tasks.items()))


def _warnings(found: Evaluation, references: Sequence[Sequence[str]]) -> list[str]:
    """What a person should know of the answers before believing the accuracy."""
    told, limit = [], f"{found.max_new_tokens} tokens"
    if found.cut_share > MANY:
        told.append(
            f"{found.cut_share:.0%} of the answers were cut at {limit}: raise evaluate.max_new_tokens, unless the "
            "model does not know yet when to stop"
        )
    if found.empty_share > MANY:
        told.append(f"{found.empty_share:.0%} of the answers are empty")
    if max(found.scores) == 0:
        first = f"{found.predictions[0]!r:.80} where {references[0][0]!r:.80} is right"
        told.append(
            f"every one of {len(found.scores):,} answers scores 0 %, such as {first}. Usually evaluate.metric does not "
            f"suit the answers (it was {metrics_told(found.metrics)}), they are cut ({found.cut_share:.0%} were, at "
            f"{limit}) or empty ({found.empty_share:.0%}), the chat template writes no token that ends them, or the "
            "model was never taught to answer"
        )
    return told
