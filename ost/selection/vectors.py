"""Sketches as unit vectors, and their division into neighbourhoods, so that time is linear in their number.

What is alike must come into the same part: near-duplicates that are dealt to several parts don't know of each other.
So the parts are the leaves of a principal direction tree (Verma, Kpotufe and Dasgupta, 2009).
"""

import numpy as np

PART = 8192
"""Samples that are compared with each other; more are divided."""
LOOKED_AT = 1024
"""Samples of a branch that its principal direction is found from."""
ITERATIONS = 10


def unit(sketches: np.ndarray) -> np.ndarray:
    """Sketches (n, k) of any float type as float32 vectors of length one; zero for one that is zero or overflowed."""
    vectors = sketches.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # in place: the whole may be a large part of the memory
    usable = np.isfinite(lengths) & (lengths > 0)
    vectors[~usable] = 0
    vectors /= np.where(usable, lengths, 1)[:, None]
    return vectors


def neighbourhoods(vectors: np.ndarray, share: float = 0.5) -> list[np.ndarray]:
    """Indices of n vectors in parts of at most PART, each part in rising order; one part where n is that small.

    Each branch is cut along its principal direction, where `share` of its vectors lie on the lower side: two shares
    have other borders.
    """
    open_, leaves = [np.arange(len(vectors))], []
    while open_:
        rows = open_.pop()
        if len(rows) <= PART:
            leaves.append(np.sort(rows))
            continue
        along = vectors[rows] @ _direction(vectors[rows[:: max(1, len(rows) // LOOKED_AT)]])
        rows = rows[np.argsort(along, kind="stable")]
        open_ += np.split(rows, [max(1, int(share * len(rows)))])
    return leaves


def _direction(some: np.ndarray) -> np.ndarray:
    """First principal direction (k,) of vectors (n, k), by power iteration; the same for the same vectors."""
    away = some - some.mean(axis=0)
    direction = np.random.default_rng(0).normal(size=some.shape[1]).astype(np.float32)
    for _ in range(ITERATIONS):
        direction = away.T @ (away @ direction)
        direction /= np.linalg.norm(direction) or 1
    return direction
