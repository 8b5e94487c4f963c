"""How far a pool's questions lie from what the anchors ask, which to answer next, and which clusters no anchor is near.

Right samples whose fact no anchor asks for look like wrong ones: on the built-in world handmath 21 % of the samples of
facts that 100 anchors leave out are misjudged, and 5 % of the others. An answer there is worth most where many samples
lie around it. How undecided the scores are about these is not asked: where no anchor asks they are sure, and wrong.

A question covers another at distance d of their sketches to exp(−d / h). What is chosen is a facility location, by
greed (1 − 1/e of the best, Nemhauser, Wolsey and Fisher, 1978): the choice that adds the most coverage, within each
task, as many of each as the pool has, so that the anchors keep its mix. The kernel is narrow, h being the usual
distance to the nearest anchor, because facts are: an answer to one says little of another that is twice as far away.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ost.errors import DataError
from ost.selection.clusters import clusters, usable_sketches
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

    `scores`: `id`, `task`, `sketch` and `loss`; `anchors`: `sketch` by the same proxy. A sample whose loss is not
    finite is not asked about. The order of the table plays no part. Time and memory do not grow with a pool above MOST.
    Raises DataError where the sketches are missing, or are not those of one proxy.
    """
    sketches, rows = usable_sketches(scores) if "sketch" in scores.column_names else (np.empty((0, 1)), np.empty(0))
    if not len(rows):
        raise DataError("the scores hold no sketches to tell questions apart by: set score.sketch, and score again")
    finite = np.isfinite(scores["loss"].to_numpy()[rows])
    sketches, rows = sketches[finite], rows[finite]
    some = np.argsort(scores["id"].to_numpy()[rows], kind="stable")[:MOST]
    vectors, tasks = unit(sketches[some]), scores["task"].to_numpy()[rows[some]]
    near = distances_to(vectors, _states(anchors, vectors.shape[1]))
    for place in _greedy(vectors, near, tasks):
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


def _greedy(vectors: np.ndarray, near: np.ndarray, tasks: np.ndarray) -> Iterator[int]:
    """Places in the order of choice, all of them in the end; each of the task that is furthest behind its share.

    Lazy (Minoux, 1978): a gain only shrinks, so the best known one is looked at first.
    """
    scale = _scale(near)
    covered = np.exp(-near / scale)

    def cover(places: slice) -> np.ndarray:
        return np.exp(-_distances(vectors[places], vectors) / scale)

    def gains(places: slice) -> np.ndarray:
        return np.maximum(cover(places) - covered, 0).sum(axis=1)

    first = np.concatenate([gains(slice(at, at + BLOCK)) for at in range(0, len(vectors), BLOCK)])
    names, own = np.unique(tasks, return_inverse=True)
    heaps: list[list[tuple[float, int, int]]] = [[] for _ in names]
    for place, gain in enumerate(first.tolist()):
        heaps[own[place]].append((-gain, place, 0))
    for heap in heaps:
        heapq.heapify(heap)
    shares, taken = np.bincount(own) / len(own), np.zeros(len(names))
    for chosen in range(len(vectors)):
        behind = shares * (chosen + 1) - taken
        heap = heaps[int(np.argmax(np.where([bool(heap) for heap in heaps], behind, -np.inf)))]
        while True:
            _, place, asked = heapq.heappop(heap)
            if asked == chosen:
                break
            heapq.heappush(heap, (-float(gains(slice(place, place + 1))[0]), place, chosen))
        covered = np.maximum(covered, cover(slice(place, place + 1))[0])
        taken[own[place]] += 1
        yield place
