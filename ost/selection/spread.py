"""Selection without near-duplicates: the best first, by the strictest threshold that still fills the subset.

The filter is DEITA's (see ost/selection/diversity.py), which leaves more samples the higher its threshold is; the
threshold is found by bisection.
"""

import numpy as np

from ost.selection.diversity import filled, unlike
from ost.selection.vectors import neighbourhoods, unit

TOLERANCE = 1e-3
"""Cosine to which the threshold is found."""
SURPLUS = 0.01
"""Share of the subset that may be left over, and is cut, for the search to end early."""
SHARES = 1 / 2, 1 / 3
"""Where the neighbourhoods of each round are cut. What near-duplicates one round's borders part, another's do not."""


def spread(sketches: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Indices of `size` of the n candidates, which come best first, in rising order; and the threshold.

    A candidate is passed over where its cosine with a kept one reaches the threshold, the least that leaves `size` of
    them, to within TOLERANCE or SURPLUS. Where so many are the same that even 1 leaves fewer, the best of those passed
    over fill the rest. `sketches`: (n, k).
    """
    vectors, low, threshold = unit(sketches), -1.0, 1.0
    found: np.ndarray | None = None
    while threshold - low > TOLERANCE and size < len(vectors):
        middle = (low + threshold) / 2
        kept = _left(vectors, middle)
        if len(kept) < size:
            low = middle
            continue
        threshold, found = middle, kept
        if len(kept) <= (1 + SURPLUS) * size:
            break
    kept = _left(vectors, threshold) if found is None else found
    return np.sort(filled(kept[:size], len(vectors), size)), threshold


def _left(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """What the filter leaves, in rising order: within neighbourhoods, then among what is left within other ones."""
    rows = np.arange(len(vectors))
    for share in SHARES:
        found = vectors if len(rows) == len(vectors) else vectors[rows]
        parts = neighbourhoods(found, share)
        rows = rows[np.sort(np.concatenate([part[unlike(found[part], threshold)] for part in parts]))]
        if len(parts) == 1:
            break
    return rows
