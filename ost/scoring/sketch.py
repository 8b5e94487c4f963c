"""Gradient sketches: a few numbers a sample whose inner products estimate those of whole gradients."""

import hashlib
import math

import torch
from torch import Tensor

from ost.scoring.layers import Form, Outer


class Sketcher:
    """Projects per-sample gradients of matrices to `size` = k² numbers: Σ over layers of Rᵀ (Σ_l δ_l x_lᵀ) S.

    R (o, k) and S (i, k) have random signs / √k, drawn for each weight from its name alone, so that sketches of two
    machines, or of two runs, can be compared. E⟨sketch, sketch'⟩ = ⟨gradient, gradient'⟩ over the matrices; the
    relative error is about 1/k for two gradients of one layer, less over many. The gradient itself is never formed.
    """

    def __init__(self, size: int):
        self.edge = math.isqrt(size)
        self._signs: dict[tuple[str, int, str], Tensor] = {}

    def of(self, name: str, form: Form) -> Tensor | None:
        """(B, k²) of one weight's gradients; None for a vector's or an embedding's."""
        if not isinstance(form, Outer):
            return None
        left = form.delta.float() @ self._random(name, "left", form.delta)
        right = form.x.float() @ self._random(name, "right", form.x)
        return torch.bmm(left.transpose(1, 2), right).flatten(1)

    def project(self, name: str, matrices: Tensor) -> Tensor:
        """(B, k²) of B matrices (B, o, i) by the same signs, for what is no product of two activations."""
        left, right = self._random(name, "left", matrices.mT), self._random(name, "right", matrices)
        return (left.T @ matrices.float() @ right).flatten(1)

    def _random(self, name: str, side: str, like: Tensor) -> Tensor:
        key = (name, like.shape[-1], side)
        if key not in self._signs:
            seed = int.from_bytes(hashlib.blake2b(f"{name}/{side}".encode(), digest_size=7).digest())
            self._signs[key] = random_signs(like.shape[-1], self.edge, seed).to(like.device)
        return self._signs[key]


def random_signs(rows: int, columns: int, seed: int) -> Tensor:
    """A projection (rows, columns) that keeps inner products in expectation: ±1 / √columns, the same for a seed."""
    bits = torch.randint(0, 2, (rows, columns), generator=torch.Generator().manual_seed(seed))
    return ((2 * bits - 1) / math.sqrt(columns)).float()
