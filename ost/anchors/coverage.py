"""How far a pool's questions lie from what the anchors ask, which to answer next, and which clusters no anchor is near.

Right samples whose fact no anchor asks for look like wrong ones: on the built-in world handmath 21 % of the samples of
facts that 100 anchors leave out are misjudged, and 5 % of the others. An answer there is worth most where many samples
lie around it and the scores are undecided about them.

A question covers another at distance d of their sketches to exp(−d / h). What is chosen is a facility location, by
greed (1 − 1/e of the best, Nemhauser, Wolsey and Fisher, 1978): the choice that adds the most coverage, each sample's
times its weight. The kernel is narrow, h being the usual distance to the nearest anchor, because facts are: an answer
to one says little of another that is twice as far away.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ost.errors import DataError
from ost.selection.clusters import clusters, usable_sketches
from ost.selection.purity import p_right
from ost.selection.signal import may_claim
from ost.selection.vectors import unit
from ost.store import matrix

MOST = 8192
"""Samples that choices are made among, and judged by: of a larger pool those whose ids come first, which is a draw at
random, since an id is a digest."""
BLOCK = 256
"""Samples whose distances to all others are held at once."""
BARE = 1.5
"""A cluster lies bare where its distance from the nearest anchor is this many times the usual one."""
FEWEST = 5
"""Samples of the smallest cluster that is told of."""


@dataclass(frozen=True)
class Gap:
    """A cluster of the pool that no anchor is near."""

    rows: np.ndarray
    """Its samples in the score table, those in its middle first."""
    far: float
    """Their mean distance from the nearest anchor, as a multiple of the pool's median."""


def suggested(scores: pa.Table, anchors: pa.Table) -> Iterator[int]:
    """Rows of the score table whose questions are worth an answer, the one that is worth most first.

    `scores`: `id`, `sketch`, and `p_clean` where it is known; `anchors`: `sketch` by the same proxy. What weighs is how
    undecided the scores are about a sample: 4 p (1 − p) with p the probability that it is right; all weigh alike where
    the scores cannot tell. The order of the table plays no part. Time and memory do not grow with a pool above MOST.
    Raises DataError where the sketches are missing, or are not those of one proxy.
    """
    sketches, rows = usable_sketches(scores) if "sketch" in scores.column_names else (np.empty((0, 1)), np.empty(0))
    if not len(rows):
        raise DataError("the scores hold no sketches to tell questions apart by: set score.sketch, and score again")
    weights = _undecided(scores)
    ids = scores["id"].to_numpy()[rows]
    some = np.argsort(ids, kind="stable")[:MOST]
    vectors, weights = unit(sketches[some]), weights[rows[some]].astype(np.float32)
    near = distances_to(vectors, _states(anchors, vectors.shape[1]))
    for place in _greedy(vectors, weights, near):
        yield int(rows[some[place]])


def uncovered(sketches: np.ndarray, anchors: np.ndarray, scale: float | None = None) -> np.ndarray:
    """How little the anchors (A, k) cover each of n samples (n, k): 1 − exp(−d / h), (n,) from 0 to 1.

    `scale`: h; else the median distance of these samples from the nearest anchor.
    """
    near = distances_to(unit(sketches), unit(anchors))
    return 1 - np.exp(-near / (_scale(near) if scale is None else scale))


def distances_to(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance (n,) of each of n unit vectors (n, k) from the nearest of others (m, k)."""
    parts = [_distances(vectors[at : at + BLOCK], others).min(axis=1) for at in range(0, len(vectors), BLOCK)]
    return np.concatenate(parts)


def gaps(scores: pa.Table, anchors: pa.Table, seed: int = 0) -> list[Gap]:
    """The clusters of a pool that no anchor is near, the largest first; none where the scores hold no sketches.

    The clusters are those that breadth is told by. Raises DataError where the sketches are not those of one proxy.
    """
    labels = clusters(scores, seed)
    if labels is None:
        return []
    sketches, rows = usable_sketches(scores)
    vectors = unit(sketches)
    near, own = distances_to(vectors, _states(anchors, vectors.shape[1])), labels[rows]
    near /= _scale(near)
    found = []
    for label in np.unique(own):
        members = np.flatnonzero(own == label)
        far = float(near[members].mean())
        if len(members) >= FEWEST and far >= BARE:
            middle = vectors[members].mean(axis=0)
            found.append(Gap(rows[members[np.argsort(-(vectors[members] @ middle), kind="stable")]], far))
    return sorted(found, key=lambda gap: -len(gap.rows))


def _undecided(scores: pa.Table) -> np.ndarray:
    """How undecided the scores are about each sample, (N,) from 0 to 1; 0 for one that is quarantined."""
    if "p_clean" not in scores.column_names or not may_claim(scores):
        return np.ones(len(scores))
    p = scores["p_clean"].to_numpy()
    known, found = np.isfinite(p), np.zeros(len(p))
    right = p_right(p[known])
    found[known] = 4 * right * (1 - right)
    return found


def _states(anchors: pa.Table, width: int) -> np.ndarray:
    states = unit(matrix(anchors, "sketch"))
    if states.shape[1] != width:
        raise DataError(
            f"the anchors' sketches have {states.shape[1]} numbers, and the pool's {width}: score both by one proxy"
        )
    return states


def _distances(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) of unit vectors."""
    return np.sqrt(np.maximum(0, 2 - 2 * (vectors @ others.T)))


def _scale(near: np.ndarray) -> float:
    """h: the usual distance from the nearest anchor; 1 where the anchors stand on the samples themselves."""
    return float(np.median(near)) or 1.0


def _greedy(vectors: np.ndarray, weights: np.ndarray, near: np.ndarray) -> Iterator[int]:
    """Places in the order of choice, all of them in the end.

    Lazy (Minoux, 1978): a gain only shrinks, so the best known one is looked at first.
    """
    scale = _scale(near)
    covered = np.exp(-near / scale)

    def cover(places: slice) -> np.ndarray:
        return np.exp(-_distances(vectors[places], vectors) / scale)

    def gains(places: slice) -> np.ndarray:
        return np.maximum(cover(places) - covered, 0) @ weights

    first = np.concatenate([gains(slice(at, at + BLOCK)) for at in range(0, len(vectors), BLOCK)])
    heap = [(-gain, place, 0) for place, gain in enumerate(first.tolist())]
    heapq.heapify(heap)
    chosen = 0
    while heap:
        _, place, asked = heapq.heappop(heap)
        own = slice(place, place + 1)
        if asked == chosen:
            covered = np.maximum(covered, cover(own)[0])
            chosen += 1
            yield place
        else:
            heapq.heappush(heap, (-float(gains(own)[0]), place, chosen))
