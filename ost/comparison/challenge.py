"""Whether a challenger answers a benchmark better than the champion does, however often champions are challenged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ost.errors import DataError


@dataclass(frozen=True)
class Gain:
    """Difference of mean scores, challenger less champion, on the same samples."""

    champion: float
    challenger: float
    interval: tuple[float, float]
    """Of the difference, two-sided, at this confidence."""
    samples: int
    confidence: float

    @property
    def mean(self) -> float:
        """The difference itself."""
        return self.challenger - self.champion

    @property
    def is_proven(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.interval[0] > 0


def confidence_of(number: int, confidence: float) -> float:
    """Confidence of a champion's challenge number 1, 2, …, such that all of them together keep the one asked for.

    If each week had a chance of its own, a champion that is challenged every week would soon lose its place by chance.
    Here the weeks share it: the k-th challenge spends the part 6 / (π² k²) of alpha = 1 - confidence; the parts sum to
    one. By the union bound the probability that a champion is ever replaced by a model that is no better is at most
    alpha, however many challengers come, and however their answers depend on one another, as those on one benchmark do.
    Alpha spending: Lan and DeMets 1983, doi:10.1093/biomet/70.3.659; over streams of tests that have no end: Foster and
    Stine 2008, doi:10.1111/j.1467-9868.2007.00643.x. LORD, which spends more where it finds something (Javanmard and
    Montanari 2018, arXiv:1603.09000), wants tests that are independent of each other.
    """
    return 1 - (1 - confidence) * 6 / (math.pi * number) ** 2


def paired_gain(
    champion: Sequence[float],
    challenger: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    clusters: Sequence[int] | None = None,
) -> Gain:
    """Compare two models' scores on the same benchmark, sample by sample.

    The interval spans two, that of a paired percentile bootstrap and Student's of the clusters' sums: the first sees
    skew, the second reaches levels that resamples cannot, and makes room for few clusters. Zero is in it where so few
    clusters differ that all of them may lie on one side by chance.

    `clusters`: the number of each sample's cluster, from 0 on, where some share an image: what is drawn again are
    clusters then. None: each sample is one. Raises DataError where the two are not of the same samples.
    """
    if len(champion) != len(challenger) or not len(champion):
        raise DataError(f"verdicts on {len(champion)} and {len(challenger)} samples cannot be paired")
    difference = np.asarray(challenger, float) - np.asarray(champion, float)
    numbers = np.arange(len(difference)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    gains, sizes = np.bincount(numbers, difference), np.bincount(numbers)
    interval = _interval(gains, sizes, confidence, resamples)
    return Gain(float(np.mean(champion)), float(np.mean(challenger)), interval, len(difference), confidence)


def falls(
    champion: Sequence[float],
    challenger: Sequence[float],
    tasks: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 10_000,
    clusters: Sequence[int] | None = None,
) -> dict[str, Gain]:
    """The tasks of a benchmark in which the challenger is worse, and by how much; see `paired_gain`.

    Each task's interval lies below zero, at a confidence that makes room for all tasks at once (Bonferroni's).
    """
    names, found = sorted(set(tasks)), {}
    level = 1 - (1 - confidence) / len(names)
    for name in names:
        own = [place for place, task in enumerate(tasks) if task == name]
        scores = (np.asarray(values)[own] for values in (champion, challenger))
        gain = paired_gain(*scores, level, resamples, None if clusters is None else np.asarray(clusters)[own])
        if gain.interval[1] < 0:
            found[name] = gain
    return found


def _interval(gains: np.ndarray, sizes: np.ndarray, confidence: float, resamples: int) -> tuple[float, float]:
    """Of the mean gain of a sample; `gains`, `sizes`: sum and number of the samples in each cluster, both (C,)."""
    if len(sizes) < 2:  # nothing follows from one
        return -1.0, 1.0
    mean = gains.sum() / sizes.sum()
    rest = gains - mean * sizes
    error = math.sqrt(len(sizes) / (len(sizes) - 1) * (rest @ rest)) / sizes.sum()
    reach = stats.t.isf((1 - confidence) / 2, len(sizes) - 1) * error
    low, high = mean - reach, mean + reach
    if error > 0:  # else there is nothing to resample
        drawn = stats.bootstrap(
            (gains, sizes),
            lambda gains, sizes, axis: gains.sum(axis) / sizes.sum(axis),
            paired=True,
            confidence_level=confidence,
            n_resamples=resamples,
            batch=100,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = min(low, drawn.low), max(high, drawn.high)
    if 0.5 ** np.count_nonzero(gains) > (1 - confidence) / 2:  # the sign test, where all signs agree
        low, high = min(low, 0.0), max(high, 0.0)
    return float(low), float(high)
