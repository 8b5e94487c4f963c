"""Benchmark evaluation: greedy generation, then a metric of each task's own kind of answer."""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ost.data import Sample
from ost.data.sample import image_digest
from ost.evaluation.generate import LEAST_TOKENS, MARGIN, Generated, generate, limit_for, token_counts
from ost.evaluation.metrics import AUTO, check_tasks, metrics_by_task, metrics_named, references_of
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
    longer: float | None
    """Share of the samples whose references are all longer than that limit; None where there is none."""
    predictions: list[str]
    """One text a sample, in the benchmark's order, as are scores, cut and clusters."""
    scores: list[float]
    cut: list[bool]
    """Whether the limit ended the answer."""
    clusters: np.ndarray
    """(N,) int32; samples of one number share images."""
    warnings: list[str]

    @classmethod
    def of_scores(
        cls, tasks: Sequence[str], scores: Sequence[float], images: Sequence[Sequence[Hashable]], **told
    ) -> "Evaluation":
        """The evaluation that samples' scores come to; `told`: all that does not follow from them.

        `tasks`: of each sample, as are the scores, and `images`, what tells its images from others.
        """
        by_task: dict[str, list[float]] = defaultdict(list)
        for task, score in zip(tasks, scores, strict=True):
            by_task[task].append(score)
        clusters = clusters_of(images)
        return cls(
            accuracy=fmean(scores),
            interval=mean_interval(scores, clusters),
            by_task={task: fmean(own) for task, own in sorted(by_task.items())},
            scores=list(scores),
            clusters=clusters,
            **told,
        )

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
    check_tasks(metric, names)
    metrics, split = metrics_named(names), [references_of(reference) for _, reference in references]
    lengths = token_counts(checkpoint, itertools.chain.from_iterable(split))
    each = iter(lengths)
    shortest = [min(itertools.islice(each, len(own))) for own in split]
    suited = limit_for(checkpoint, lengths, LEAST_WORKED if "math" in names.values() else LEAST_TOKENS)
    limit = suited if max_new_tokens is None else max_new_tokens
    said = generate(checkpoint, benchmark, max_new_tokens=limit, execution=execution, progress=progress)
    tasks = [task for task, _ in references]
    found = Evaluation.of_scores(
        tasks,
        [metrics[task](text, own) for task, text, own in zip(tasks, said.texts, split, strict=True)],
        images,
        metrics=names,
        max_new_tokens=limit,
        longer=fmean(length > limit for length in shortest),
        predictions=said.texts,
        cut=said.cut,
        warnings=[],
    )
    found.warnings.extend([*_limit_warnings(found, suited, max(lengths)), *_warnings(found, said, split)])
    return found


def metrics_told(metrics: Mapping[str, str]) -> str:
    """Metrics with the tasks that they are for, such as "exact (sum, product), choice (which)"."""
    tasks: dict[str, list[str]] = defaultdict(list)
    for task, name in metrics.items():
        tasks[name].append(task or "untitled")
    return ", ".join(f"{name} ({', '.join(own)})" for name, own in sorted(tasks.items()))


def _limit_warnings(found: Evaluation, suited: int, longest: int) -> list[str]:
    """That the limit leaves no room for the references, or for what comes before an answer.

    `suited`: the limit that follows from the references; `longest`: tokens of the longest.
    """
    works_first = suited > max(LEAST_TOKENS, MARGIN * longest)
    if found.longer:
        why = f"the references of {found.longer:.1%} of the samples are longer, up to {longest:,}"
    elif works_first and found.max_new_tokens < suited:
        why = "answers are worked out here before they are given"
    else:
        return []
    remedy = f"to null, which takes {suited:,}" if found.max_new_tokens < suited else "higher"
    return [f"an answer may take {found.max_new_tokens:,} tokens, and {why}: set evaluate.max_new_tokens {remedy}"]


def _warnings(found: Evaluation, said: Generated, references: Sequence[Sequence[str]]) -> list[str]:
    """What a person should know of the answers before believing the accuracy."""
    told, limit = [], f"{found.max_new_tokens} tokens"
    if found.cut_share > MANY:
        told.append(
            f"{found.cut_share:.0%} of the answers were cut at {limit}: raise evaluate.max_new_tokens, unless the "
            "model does not know yet when to stop"
        )
    if found.empty_share > MANY:
        special = fmean(said.special)
        whose = "" if special == found.empty_share else f"in {special:.0%} "
        why = f": {whose}the model wrote special tokens alone, which are no text" if special else ""
        told.append(f"{found.empty_share:.0%} of the answers are empty{why}")
    if max(found.scores) == 0:
        first = f"{found.predictions[0]!r:.80} where {references[0][0]!r:.80} is right"
        told.append(
            f"every one of {len(found.scores):,} answers scores 0 %, such as {first}. Usually evaluate.metric does not "
            f"suit the answers (it was {metrics_told(found.metrics)}), they are cut ({found.cut_share:.0%} were, at "
            f"{limit}) or empty ({found.empty_share:.0%}), the chat template writes no token that ends them, or the "
            "model was never taught to answer"
        )
    return told
