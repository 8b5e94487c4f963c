"""How far an accuracy on a benchmark may be off, where samples that share an image are not independent."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import sparse, stats
from scipy.sparse import csgraph

CONFIDENCE = 0.95


def clusters_of(images: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """(N,) int32: the number of each sample's cluster; two that share an image, or a chain of them, are in one.

    `images`: of each sample, what tells its images from others. A sample without any is a cluster by itself.
    """
    numbers: dict[Hashable, int] = {}
    edges = [(row, numbers.setdefault(image, len(numbers))) for row, own in enumerate(images) for image in own]
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    count = len(images) + len(numbers)
    graph = sparse.coo_array((np.ones(len(rows)), (rows, len(images) + columns)), shape=(count, count))
    found = csgraph.connected_components(graph, directed=False)[1][: len(images)]
    return np.unique(found, return_inverse=True)[1].astype(np.int32)


def mean_interval(scores: Sequence[float], clusters: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of scores in [0, 1], whose clusters are independent of each other.

    Wilson's, with as many samples as would give, were they independent, the cluster-robust standard error
    (arXiv:2411.00640, section 2.2, with G / (G − 1) for G clusters): it stays within [0, 1], and has a width where
    every score is the same; then each cluster counts as one sample. Of a single cluster nothing follows: (0, 1).
    """
    values = np.asarray(scores, dtype=float)
    mean, count = float(values.mean()), int(clusters.max()) + 1
    if count < 2:
        return 0.0, 1.0
    residuals = np.bincount(clusters, values - mean)
    variance = count / (count - 1) * float(residuals @ residuals) / len(values) ** 2
    size = mean * (1 - mean) / variance if variance > 1e-12 else count
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (mean + z**2 / (2 * size)) / (1 + z**2 / size)
    reach = z / (1 + z**2 / size) * np.sqrt(mean * (1 - mean) / size + z**2 / (4 * size**2))
    return float(max(0.0, centre - reach)), float(min(1.0, centre + reach))
