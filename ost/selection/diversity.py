"""DEITA's diversity filter: best first, passing over what is like a kept sample (arXiv:2312.15685, section 3)."""

import numpy as np

BLOCK = 256
"""Candidates that the diversity filter looks at together."""


def diverse(embeddings: np.ndarray, size: int, threshold: float = 0.9) -> np.ndarray:
    """Indices of `size` of the N candidates, which come best first, in the order of choice.

    A candidate is passed over where its cosine with a kept one reaches the threshold. `embeddings`: (N, d) float32, of
    length one. Where the filter leaves fewer than `size`, the best of those passed over fill the rest.
    """
    kept = np.empty((min(size, len(embeddings)), embeddings.shape[1]), dtype=np.float32)
    chosen: list[int] = []
    for start in range(0, len(embeddings), BLOCK):
        block = embeddings[start : start + BLOCK]
        free = (block @ kept[: len(chosen)].T < threshold).all(axis=1)
        unlike = block @ block.T < threshold
        for index in range(len(block)):
            if len(chosen) == len(kept):
                return np.array(chosen, dtype=int)
            if free[index]:
                kept[len(chosen)] = block[index]
                chosen.append(start + index)
                free &= unlike[index]
    rest = np.setdiff1d(np.arange(len(embeddings)), chosen)[: len(kept) - len(chosen)]
    return np.concatenate([np.array(chosen, dtype=int), rest])
