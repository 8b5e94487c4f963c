"""Facility location on sketches: a subset that stands for all candidates.

Ranking sample by sample ignores that two samples can teach the same. Here the chosen samples interact: a set S is worth
Σ_i max(0, max_{s ∈ S} cos(g_i, g_s)) over the candidates i, so a sample whose sketch is like a chosen one's adds
little. The greedy choice reaches 1 − 1/e of the best set's worth (Nemhauser, Wolsey and Fisher, 1978).

Wrong samples are unusual, so breadth by itself seeks them. Where it is known how likely each sample is right, p, what i
adds is p_i² Σ_j p_j max(0, cos(g_i, g_j) − what j is covered by): both must be right, and a wrong i does not only add
nothing but teaches its error. The square lies between adding nothing (p_i) and undoing as much (2 p_i − 1).
"""

import heapq

import numpy as np

from ost.selection.vectors import neighbourhoods, unit


def cover(sketches: np.ndarray, size: int, right: np.ndarray | None = None) -> np.ndarray:
    """Indices of `size` of the n candidates, in the order of choice, from their sketches (n, k).

    `right`: the probability (n,) that each is right; None where nothing is known of it, which counts them alike. All of
    them where `size` is above n. More than one part holds are divided into neighbourhoods, and the choices made
    in each merged by what they gain: the greedy choice where no sample stands for one of another neighbourhood.
    """
    vectors, chosen, gained = unit(sketches), [], []
    right = np.ones(len(vectors), np.float32) if right is None else right.astype(np.float32)
    for rows in neighbourhoods(vectors):
        similarity = _similarity(vectors[rows])
        similarity *= right[rows]  # in place: it may be a quarter of a gigabyte
        own, gains = _greedy(similarity, right[rows] ** 2, min(size, len(rows)))
        chosen.append(rows[own])
        gained.append(np.minimum.accumulate(gains))
    order = np.argsort(-np.concatenate(gained), kind="stable")
    return np.concatenate(chosen)[order[:size]]


def _similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosines (n, n), negative ones as 0."""
    similarity = vectors @ vectors.T
    return np.maximum(similarity, 0, out=similarity)


def _greedy(similarity: np.ndarray, weights: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices in the order of choice, and what each gained: what it adds to the cover, times its weight.

    Lazy (Minoux, 1978): a gain only shrinks as the set grows, so the best known one is looked at first.
    """
    covered = np.zeros(len(similarity), dtype=similarity.dtype)
    heap = [(-gain, index) for index, gain in enumerate((weights * similarity.sum(axis=1)).tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    gains: list[float] = []
    asked = np.zeros(len(similarity), dtype=int)
    while len(chosen) < size:
        gain, index = heapq.heappop(heap)
        if asked[index] == len(chosen):
            chosen.append(index)
            gains.append(-gain)
            covered = np.maximum(covered, similarity[index])
        else:
            asked[index] = len(chosen)
            gain = float(weights[index] * np.maximum(similarity[index] - covered, 0).sum())
            heapq.heappush(heap, (-gain, index))
    return np.array(chosen, dtype=int), np.array(gains)
