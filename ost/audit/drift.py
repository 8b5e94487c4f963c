"""Whether a warm proxy still speaks for a pool and anchors that have changed since its warm-up."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

SIGNIFICANCE = 0.01
"""Chance at which two like sets of samples would count as unlike."""

FEWEST = 30
"""New samples below which no distance counts: a handful of odd ones does not make a proxy invalid."""

LOOKED_AT = ("utility", "loss")


@dataclass(frozen=True)
class Drift:
    """How far anchors and new samples have moved from what the proxy was warmed up on."""

    anchor_loss: float
    """Mean loss of the warm proxy on the anchors as they are, in nats."""
    anchor_loss_before: float
    """The same when it was fresh."""
    new: int
    """Samples that were not there when it was fresh."""
    distances: dict[str, float]
    """Column of the score table → Kolmogorov-Smirnov distance between new and known samples; 0 where it is chance."""

    @property
    def rise(self) -> float:
        """Rise of the anchors' loss, as a share of what it was."""
        return self.anchor_loss / self.anchor_loss_before - 1

    def reasons(self, anchor_loss_rise: float = 0.2, drift: float = 0.3) -> list[str]:
        """Why the proxy has to be warmed up anew; empty where it need not. The limits are those of `recurate`."""
        found = []
        if self.rise > anchor_loss_rise:
            found.append(
                f"its loss on the anchors has risen by {self.rise:.0%}, from {self.anchor_loss_before:.3f} to "
                f"{self.anchor_loss:.3f} nats (recurate.anchor_loss_rise is {anchor_loss_rise:.0%})"
            )
        found += [
            f"the {name} of {self.new:,} new samples lies {distance:.2f} from that of the known ones "
            f"(recurate.drift is {drift:.2f})"
            for name, distance in self.distances.items()
            if distance > drift
        ]
        return found


def measure_drift(scores: pa.Table, known: pa.ChunkedArray, anchor_loss: float, anchor_loss_before: float) -> Drift:
    """Compare the samples of a score table that are `known`, by id, with those that are not.

    A distance (two-sample Kolmogorov-Smirnov) that chance explains at 1 %, or of a handful of samples, counts as none.
    """
    old = pc.is_in(scores["id"], known)
    new = scores.filter(pc.invert(old))
    distances = {name: _distance(new[name], scores.filter(old)[name]) for name in LOOKED_AT}
    return Drift(anchor_loss, anchor_loss_before, len(new), distances)


def _distance(new: pa.ChunkedArray, old: pa.ChunkedArray) -> float:
    finite = [values.filter(pc.is_finite(values)).to_numpy() for values in (new, old)]
    if len(finite[0]) < FEWEST or not len(finite[1]):
        return 0.0
    found = stats.ks_2samp(*finite)
    return float(found.statistic) if found.pvalue < SIGNIFICANCE else 0.0
