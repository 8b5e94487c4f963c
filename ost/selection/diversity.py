"""DEITA's diversity filter: best first, passing over what is like a kept sample (arXiv:2312.15685, section 3)."""

import numpy as np

BLOCK = 256
"""Candidates that the diversity filter looks at together."""


def diverse(embeddings: np.ndarray, size: int, threshold: float = 0.9) -> np.ndarray:
    """Indices of `size` of the N candidates, which come best first, in the order of choice.

    `embeddings`: (N, d) float32, of length one. Where the filter (see `unlike`) leaves fewer than `size`, the best of
    those passed over fill the rest.
    """
    return filled(unlike(embeddings, threshold, size), len(embeddings), size)


def unlike(embeddings: np.ndarray, threshold: float, size: int | None = None) -> np.ndarray:
    """Indices of the candidates, best first, that are not passed over, or of the first `size` of them.

    A candidate is passed over where its cosine with a kept one reaches the threshold.
    """
    rest, chosen, count = np.arange(len(embeddings)), [np.empty(0, dtype=int)], 0
    while len(rest) and (size is None or count < size):
        kept = rest[_unlike(embeddings[rest[:BLOCK]], threshold)]
        rest = rest[BLOCK:]
        rest = rest[(embeddings[rest] @ embeddings[kept].T < threshold).all(axis=1)]
        chosen.append(kept)
        count += len(kept)
    return np.concatenate(chosen)[:size]


def filled(chosen: np.ndarray, count: int, size: int) -> np.ndarray:
    """What is chosen of `count` candidates, and behind it the best of the others, until there are `size`."""
    rest = np.setdiff1d(np.arange(count), chosen)
    return np.concatenate([chosen, rest[: max(0, size - len(chosen))]])


def _unlike(block: np.ndarray, threshold: float) -> list[int]:
    """The filter within a block."""
    apart, free, kept = block @ block.T < threshold, np.ones(len(block), dtype=bool), []
    for index in range(len(block)):
        if free[index]:
            kept.append(index)
            free &= apart[index]
    return kept
