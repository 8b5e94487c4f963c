"""The breadth of a selection: how much of the pool's variety it still holds, whatever of it is right.

The pool is cut into clusters of samples that are alike, once, by the sketches that scoring leaves of them. A selection
is told by how many clusters it reaches, how evenly it lies over them, and its mix of tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ost.errors import DataError
from ost.selection.clusters import clusters

NARROW = 0.6
"""Breadth below which a selection is called narrow."""
FEWEST = 30
"""Kept samples below which none is: a handful lies unevenly by chance."""
WIDENING = ("draw", "spread", "cover")
"""Strategies that choose among the best by something else than rank."""
DRAWS = 100
"""Random draws that a selection is compared with."""


@dataclass(frozen=True)
class Breadth:
    """How much of a pool's variety a selection holds; figures of clusters are None where no sample has a sketch."""

    samples: int
    """Kept ones."""
    clusters: int | None
    """Of the pool."""
    reach: float | None
    """Share of the clusters with at least one kept sample."""
    effective: float | None
    """Effective number of clusters: exp of the entropy of the kept samples over them, the Hill number of order 1 (Hill,
    1973). k for a selection that lies evenly over k of them; 0 for none."""
    drawn: float | None
    """The same of a random draw of as many from the pool, mean of DRAWS."""
    mix: Mapping[str, tuple[float, float]]
    """Task → its share of the kept samples, and of the pool."""

    @property
    def ratio(self) -> float | None:
        """`effective` as a share of `drawn`: about 1 for what is drawn at random."""
        return self.effective / self.drawn if self.effective is not None and self.drawn else None

    @property
    def narrow(self) -> bool:
        """Whether it holds so much less variety than a random draw that a person should know."""
        return self.ratio is not None and self.ratio < NARROW and self.samples >= FEWEST

    def to_json(self) -> dict[str, Any]:
        """Plain values, `ratio` with them."""
        mix = {task: {"kept": kept, "pool": pool} for task, (kept, pool) in self.mix.items()}
        figures = {
            name: getattr(self, name) for name in ("samples", "clusters", "reach", "effective", "drawn", "ratio")
        }
        return figures | {"mix": mix}


def breadths(scores: pa.Table, selections: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Breadth]:
    """Breadth of each selection, arm → (N,) bool, from a score table: `task`, and `sketch` where it has one.

    A sample whose sketch is missing, zero or not finite belongs to no cluster. Time is linear in N. Raises DataError
    for a selection that is no mask over the table's rows.
    """
    labels = clusters(scores, seed)
    tasks, index = np.unique(scores["task"].to_numpy(), return_inverse=True)
    pool = _shares(index, len(tasks))
    found = {}
    for arm, kept in selections.items():
        own = _shares(index[_mask(arm, kept, len(scores))], len(tasks))
        mix = dict(zip(map(str, tasks), zip(own, pool, strict=True), strict=True))
        figures = (None,) * 4 if labels is None else _spread(labels, kept, seed)
        found[arm] = Breadth(int(kept.sum()), *figures, mix)
    return found


def narrow_warnings(found: Mapping[str, Breadth], strategy: str) -> list[str]:
    """Which of the selections, name → breadth, are narrow, and what would widen what this strategy chose."""
    others = f"set select.strategy to {', '.join(WIDENING[:-1])} or {WIDENING[-1]}"
    remedy = f"let `{strategy}` choose among more: raise select.among" if strategy in WIDENING else others
    return [
        f"{name} is narrow: it spreads over {one.effective:.1f} effective clusters of the pool, a random draw of as "
        f"many samples over {one.drawn:.1f} (breadth {one.ratio:.2f}, below {NARROW:g}); to widen it, {remedy}"
        for name, one in found.items()
        if one.narrow
    ]


def _spread(labels: np.ndarray, kept: np.ndarray, seed: int) -> tuple[int, float, float, float]:
    """`clusters, reach, effective, drawn` of a selection; clusters that no sample of the pool is in do not count."""
    pool = np.bincount(labels[labels >= 0])
    own = np.bincount(labels[kept & (labels >= 0)], minlength=len(pool))
    draws = np.random.default_rng(seed).multivariate_hypergeometric(pool, own.sum(), size=DRAWS)
    drawn = float(np.mean([_effective(draw) for draw in draws]))
    return int((pool > 0).sum()), float((own[pool > 0] > 0).mean()), _effective(own), drawn


def _mask(arm: str, kept: np.ndarray, samples: int) -> np.ndarray:
    if kept.dtype != bool or kept.shape != (samples,):
        raise DataError(
            f"the selection of arm {arm!r} must be a bool mask of {samples} samples; found {kept.dtype} of shape "
            f"{kept.shape}"
        )
    return kept


def _effective(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def _shares(index: np.ndarray, count: int) -> list[float]:
    """Share of each of `count` values; 0 of nothing."""
    return (np.bincount(index, minlength=count) / max(1, len(index))).tolist()
