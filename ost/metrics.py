"""Metrics by name: whether an answer is right, beside the reference."""

from collections.abc import Callable

from ost.errors import ConfigError

Metric = Callable[[str, str], bool]
"""Answer and reference → whether the answer is right."""


def whole(answer: str, reference: str) -> bool:
    """Exact match of the whole texts, white space folded."""
    return _folded(answer) == _folded(reference)


def final(answer: str, reference: str) -> bool:
    """Exact match of what follows the last "=" of each, white space folded: of a short chain of thought, its end."""
    return whole(answer.rpartition("=")[2], reference.rpartition("=")[2])


def _folded(text: str) -> str:
    return " ".join(text.split())


METRICS: dict[str, Metric] = {"final": final, "whole": whole}
"""`evaluate.match`."""


def metric_of(name: str) -> Metric:
    """The metric of a name; raises ConfigError for none."""
    if name not in METRICS:
        raise ConfigError(f"no metric is named {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]
