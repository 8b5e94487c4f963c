"""Whether a challenger answers a benchmark better than the champion does, by a paired bootstrap of its clusters."""

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
    """Of the difference, two-sided, at the confidence asked for."""
    samples: int

    @property
    def mean(self) -> float:
        """The difference itself."""
        return self.challenger - self.champion

    @property
    def is_proven(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.interval[0] > 0


def paired_gain(
    champion: Sequence[float],
    challenger: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 10_000,
    clusters: Sequence[int] | None = None,
) -> Gain:
    """Compare two models' scores on the same benchmark, sample by sample: a paired percentile bootstrap.

    `clusters`: the number of each sample's cluster, from 0 on, where some share an image: what is drawn again are
    clusters then. None: each sample is one. Raises DataError where the two are not of the same samples.
    """
    if len(champion) != len(challenger) or not len(champion):
        raise DataError(f"verdicts on {len(champion)} and {len(challenger)} samples cannot be paired")
    numbers = np.arange(len(champion)) if clusters is None else np.asarray(clusters)
    difference = np.asarray(challenger, float) - np.asarray(champion, float)
    means = float(np.mean(champion)), float(np.mean(challenger))
    if np.ptp(difference) == 0:  # nothing to resample
        return Gain(*means, (float(difference[0]),) * 2, len(difference))
    gains, sizes = np.bincount(numbers, difference), np.bincount(numbers)
    if len(sizes) < 2:  # nothing follows from one
        return Gain(*means, (-1.0, 1.0), len(difference))
    found = stats.bootstrap(
        (gains, sizes),
        lambda gains, sizes, axis: gains.sum(axis) / sizes.sum(axis),
        paired=True,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Gain(*means, (float(found.low), float(found.high)), len(difference))
