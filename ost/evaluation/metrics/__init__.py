"""Metrics by name: how right an answer is beside the references, from 0 to 1."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from ost.errors import ConfigError
from ost.evaluation.metrics.auto import choose
from ost.evaluation.metrics.choice import choice
from ost.evaluation.metrics.maths import math
from ost.evaluation.metrics.number import number
from ost.evaluation.metrics.own import PREFIX, load_own
from ost.evaluation.metrics.references import references_of
from ost.evaluation.metrics.text import anls, contains, exact, final
from ost.evaluation.metrics.vqa import vqa

Metric = Callable[[str, Sequence[str]], float]
"""Answer and references, of which there is at least one → a score in [0, 1]."""

AUTO = "auto"
"""The name that stands for the metric that a task's references ask for."""
RENAMED = {"whole": "exact"}
"""Names of earlier builds, and what they are now."""


def best_of(metric: Callable[[str, str], float]) -> Metric:
    """A metric of one reference as one of several: the best score over them."""

    @functools.wraps(metric)
    def best(answer: str, references: Sequence[str]) -> float:
        return max(float(metric(answer, reference)) for reference in references)

    return best


METRICS: dict[str, Metric] = {
    **{metric.__name__: best_of(metric) for metric in (exact, choice, number, anls, contains, math, final)},
    "vqa": vqa,
}
"""`evaluate.metric`, beside `auto` and python:MODULE.FUNCTION."""


def metric_of(name: str) -> Metric:
    """The metric of a name; raises ConfigError for none, and for `auto`, which is one only beside references."""
    if name.startswith(PREFIX):
        return best_of(load_own(name))
    if name in RENAMED:
        raise ConfigError(f"the metric {name} is {RENAMED[name]} now: set evaluate.metric: {RENAMED[name]}")
    if name not in METRICS:
        raise ConfigError(
            f"no metric is named {name!r}; known: {', '.join((AUTO, *METRICS))}, and {PREFIX}MODULE.FUNCTION, your own"
        )
    return METRICS[name]


def check_metric(asked: str | Mapping[str, str]) -> None:
    """Raise ConfigError where `evaluate.metric` names something that cannot be had."""
    for name in asked.values() if isinstance(asked, Mapping) else (asked,):
        if name != AUTO:
            metric_of(name)


def check_tasks(asked: str | Mapping[str, str], known: Iterable[str]) -> None:
    """Raise ConfigError where `evaluate.metric` names a task that is not among the benchmark's."""
    if not isinstance(asked, str) and (unknown := sorted(asked.keys() - set(known))):
        tasks = ", ".join(map(repr, sorted(set(known))))
        raise ConfigError(f"evaluate.metric names the task {unknown[0]!r}, and the benchmark's are {tasks}")


def metrics_by_task(asked: str | Mapping[str, str], references: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The name of the metric of each task, in the tasks' order; `auto` is decided for each by all of its references.

    `asked`: for all tasks, or by task, and `auto` for those that are not named. `references`: of each sample, its task
    and its reference as it stands in the data (see `references_of`).
    """
    found: dict[str, list[Sequence[str]]] = {}
    for task, reference in references:
        found.setdefault(task, []).append(references_of(reference))
    names = {task: asked.get(task, AUTO) if isinstance(asked, Mapping) else asked for task in sorted(found)}
    return {task: choose(found[task]) if name == AUTO else name for task, name in names.items()}


def metrics_named(names: Mapping[str, str]) -> dict[str, Metric]:
    """Task → metric, from task → name; raises ConfigError as `metric_of` does."""
    return {task: metric_of(name) for task, name in names.items()}


def scores_of(name: str, answers: Sequence[str | None], references: Sequence[tuple[str, str]]) -> list[float]:
    """The score of each answer, 0 for None, by the metric of its task; `references` as in `metrics_by_task`."""
    metrics = metrics_named(metrics_by_task(name, references))
    return [
        0.0 if answer is None else metrics[task](answer, references_of(reference))
        for answer, (task, reference) in zip(answers, references, strict=True)
    ]
