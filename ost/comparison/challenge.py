"""Whether a challenger answers a benchmark better than the champion does, by a paired bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ost.errors import DataError


@dataclass(frozen=True)
class Gain:
    """Difference of accuracies, challenger less champion, on the same samples."""

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
    champion: Sequence[bool], challenger: Sequence[bool], confidence: float = 0.95, resamples: int = 10_000
) -> Gain:
    """Compare two models' verdicts on the same benchmark, sample by sample: a paired percentile bootstrap.

    Raises DataError where the two are not of the same samples.
    """
    if len(champion) != len(challenger) or not len(champion):
        raise DataError(f"verdicts on {len(champion)} and {len(challenger)} samples cannot be paired")
    difference = np.asarray(challenger, float) - np.asarray(champion, float)
    means = float(np.mean(champion)), float(np.mean(challenger))
    if np.ptp(difference) == 0:  # nothing to resample
        return Gain(*means, (float(difference[0]),) * 2, len(difference))
    found = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Gain(*means, (float(found.low), float(found.high)), len(difference))
