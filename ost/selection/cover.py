"""Facility location on gradient sketches: a subset whose gradients stand for those of all candidates.

Ranking sample by sample ignores that two samples can teach the same. Here the chosen samples interact: a set S is worth
Σ_i max(0, max_{s ∈ S} cos(g_i, g_s)) over the candidates i, so a sample whose gradient is like a chosen one's adds
little. The greedy choice reaches 1 − 1/e of the best set's worth (Nemhauser, Wolsey and Fisher, 1978).
"""

import heapq

import numpy as np

PART = 8192
"""Candidates compared with each other; more are dealt to several parts, so that time is linear in their number."""


def cover(sketches: np.ndarray, size: int) -> np.ndarray:
    """Indices of `size` of the n candidates, in the order of choice, from their sketches (n, k), float32.

    All of them where `size` is above n.
    """
    parts, size = max(1, -(-len(sketches) // PART)), min(size, len(sketches))
    sizes = [size // parts + (index < size % parts) for index in range(parts)]
    chosen = [
        start + parts * _greedy(_similarity(sketches[start::parts]), count)
        for start, count in zip(range(parts), sizes, strict=True)
    ]
    turns = np.concatenate([np.arange(len(own)) for own in chosen])
    return np.concatenate(chosen)[np.argsort(turns, kind="stable")]


def _similarity(sketches: np.ndarray) -> np.ndarray:
    """Cosines (n, n), negative ones as 0; so is all of a sketch that is zero, or too long for float16."""
    lengths = np.linalg.norm(sketches, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    unit = np.where(usable, sketches, 0) / np.where(usable, lengths, 1)
    similarity = unit @ unit.T
    return np.maximum(similarity, 0, out=similarity)


def _greedy(similarity: np.ndarray, size: int) -> np.ndarray:
    """Lazy greedy (Minoux, 1978): a gain only shrinks as the set grows, so the best known one is looked at first."""
    covered = np.zeros(len(similarity), dtype=similarity.dtype)
    heap = [(-gain, index) for index, gain in enumerate(similarity.sum(axis=1).tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    asked = np.zeros(len(similarity), dtype=int)
    while len(chosen) < size:
        _, index = heapq.heappop(heap)
        if asked[index] == len(chosen):
            chosen.append(index)
            covered = np.maximum(covered, similarity[index])
        else:
            asked[index] = len(chosen)
            gain = float(np.maximum(similarity[index] - covered, 0).sum())
            heapq.heappush(heap, (-gain, index))
    return np.array(chosen, dtype=int)
