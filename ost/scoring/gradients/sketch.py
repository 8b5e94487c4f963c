"""Gradient sketches: a few numbers a sample whose inner products estimate those of whole gradients."""

import hashlib
import math

import torch
from torch import Tensor

from ost.scoring.gradients.layers import LayerGradient, Outer
from ost.scoring.passes.hidden_states import random_signs


class Sketcher:
    """Projects per-sample gradients of matrices to `size` = k² numbers: Σ over layers of Rᵀ (Σ_l δ_l x_lᵀ) S.

    R (o, k) and S (i, k) have random signs / √k, drawn for each weight from its name alone, so that sketches of two
    machines, or of two runs, can be compared. E⟨sketch, sketch'⟩ = ⟨gradient, gradient'⟩ over the matrices; the
    relative error is about 1/k for two gradients of one layer, less over many. The gradient itself is never formed.
    """

    def __init__(self, size: int):
        self.edge = math.isqrt(size)
        self._signs: dict[tuple[str, int, str], Tensor] = {}

    def of(self, name: str, gradient: LayerGradient) -> Tensor | None:
        """(B, k²) of one weight's gradients; None for a vector's or an embedding's."""
        if not isinstance(gradient, Outer):
            return None
        left = gradient.delta.float() @ self._random(name, "left", gradient.delta)
        right = gradient.x.float() @ self._random(name, "right", gradient.x)
        return torch.bmm(left.transpose(1, 2), right).flatten(1)

    def project(self, name: str, matrices: Tensor) -> Tensor:
        """Sketches (B, k²) of whole gradient matrices (B, o, i), which do not come as a product of two activations."""
        left, right = self._random(name, "left", matrices.mT), self._random(name, "right", matrices)
        return (left.T @ matrices.float() @ right).flatten(1)

    def _random(self, name: str, side: str, like: Tensor) -> Tensor:
        key = (name, like.shape[-1], side)
        if key not in self._signs:
            seed = int.from_bytes(hashlib.blake2b(f"{name}/{side}".encode(), digest_size=7).digest())
            self._signs[key] = random_signs(like.shape[-1], self.edge, seed).to(like.device)
        return self._signs[key]
