"""Clusters of samples that are alike, by the sketches that scoring leaves of them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.spatial.distance import cdist

from ost.selection.vectors import unit
from ost.store import matrix

CLUSTERS = (8, 400)
"""Fewest and most clusters of a pool; between them √(2 N)."""
FIT = 50_000
"""Samples that clusters are found on; the others are dealt to them, as many at a time."""
SAME = 1e-3
"""Distance below which two centres of unit length are one: rounding alone would deal samples between them."""


def clusters(scores: pa.Table, seed: int = 0) -> np.ndarray | None:
    """The cluster of each sample, (N,) int from 0, or −1 for a sample of none; None where no sample has a sketch.

    Mini-batch k-means (Sculley, 2010) on sketches of unit length, so that direction alone counts.
    """
    from sklearn.cluster import MiniBatchKMeans

    if "sketch" not in scores.column_names:
        return None
    sketches, rows = usable_sketches(scores)
    if not len(rows):
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:FIT])
    model = MiniBatchKMeans(_count(len(rows)), n_init=3, random_state=seed).fit(unit(sketches[chosen]))
    starts = range(0, len(rows), FIT)
    found = np.concatenate([model.predict(unit(sketches[start : start + FIT])) for start in starts])
    labels = np.full(len(scores), -1)
    labels[rows] = _merged(model.cluster_centers_)[found]
    return labels


def _count(samples: int) -> int:
    """How many clusters to look for: within CLUSTERS, and fewer than there are samples."""
    few, many = CLUSTERS
    return max(1, min(many, max(few, round((2 * samples) ** 0.5)), samples - 1))


def _merged(centres: np.ndarray) -> np.ndarray:
    """For each centre the first that it coincides with: a pool with fewer kinds of sample than clusters has such."""
    return (cdist(centres, centres) < SAME).argmax(axis=1)


def usable_sketches(scores: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Those that a direction can be told of (n, k), and the rows that they stand in (n,)."""
    known = pc.is_valid(scores["sketch"])
    rows = np.flatnonzero(known.to_numpy())
    if not len(rows):  # an empty column has no width to read
        return np.empty((0, 1)), rows
    sketches = matrix(scores.select(["sketch"]).filter(known), "sketch")
    usable = np.isfinite(sketches).all(axis=1) & sketches.any(axis=1)
    return sketches[usable], rows[usable]
