"""Per-sample gradients of one layer, from its input and the gradient of its output.

Each rule gives, for the B samples of a batch, the gradients of a layer's weights in the cheapest form that their
products with fixed directions can be read off.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BySample = Callable[[Tensor], Tensor]
"""Rows of an activation by sample: (R, …, d) → (B, L, d), padded with zeros."""


@dataclass(frozen=True)
class Outer:
    """Gradient Σ_l δ_l x_lᵀ of a matrix (o, i), from x (B, L, i) and δ (B, L, o)."""

    x: Tensor
    delta: Tensor

    def products(self, directions: Tensor) -> Tensor:
        """⟨gradient, direction⟩, (B, D) float64, for directions (D, *shape).

        For one direction the gradient is never formed: it takes as many operations either way, and less memory. For
        more, forming it costs one product of the forward pass's size whatever D is.
        """
        if len(directions) == 1:
            return ((self.x @ directions[0].flatten(1).T.to(self.x.dtype)) * self.delta).sum(
                dim=(1, 2), dtype=torch.float64
            )[:, None]
        return (self.dense().flatten(1).to(directions.dtype) @ directions.flatten(1).T).double()

    def dense(self) -> Tensor:
        """The B gradients themselves, (B, o, i)."""
        return torch.bmm(self.delta.transpose(1, 2), self.x)


@dataclass(frozen=True)
class Sum:
    """Gradient Σ_l δ_l of a vector (o,), from δ (B, L, o)."""

    delta: Tensor

    def products(self, directions: Tensor) -> Tensor:
        """⟨gradient, direction⟩, (B, D) float64, for directions (D, o)."""
        return self.delta.sum(dim=1, dtype=torch.float64) @ directions.double().T


@dataclass(frozen=True)
class Lookup:
    """Gradient of an embedding table (V, o): δ_l on row `ids_l`, from ids (B, L) and δ (B, L, o)."""

    ids: Tensor
    delta: Tensor

    def products(self, directions: Tensor) -> Tensor:
        """⟨gradient, direction⟩, (B, D) float64, for directions (D, V, o)."""
        own = [(table[self.ids] * self.delta).sum(dim=(1, 2), dtype=torch.float64) for table in directions]
        return torch.stack(own, dim=1)


LayerGradient = Outer | Sum | Lookup
"""The B per-sample gradients of one weight."""
ByName = Iterator[tuple[str, LayerGradient]]
"""Gradients of a module's own weights, each with the weight's name in it."""
Rule = Callable[[nn.Module, Tensor, Tensor, BySample], ByName]
"""A module, its input and its output's gradient → the gradients of its weights."""


def rule_for(module: nn.Module) -> Rule | None:
    """How the gradients of the module's own weights are found; None where that is not known."""
    if isinstance(module, nn.Linear):
        return _linear
    if isinstance(module, nn.Embedding):
        return _embedding
    if isinstance(module, nn.LayerNorm) or _is_rms_norm(module):
        return _norm
    if isinstance(module, nn.Conv2d | nn.Conv3d) and _cuts_patches(module):
        return _patches
    return None


def _linear(module: nn.Linear, x: Tensor, delta: Tensor, by_sample: BySample) -> ByName:
    rows = by_sample(delta)
    yield "weight", Outer(by_sample(x).to(rows.dtype), rows)  # under autocast the layer cast its input too
    if module.bias is not None:
        yield "bias", Sum(rows)


def _embedding(module: nn.Embedding, ids: Tensor, delta: Tensor, by_sample: BySample) -> ByName:
    yield "weight", Lookup(by_sample(ids[..., None]).squeeze(-1), by_sample(delta))


def _norm(module: nn.Module, x: Tensor, delta: Tensor, by_sample: BySample) -> ByName:
    """The output is weight × normalised input, or (1 + weight) × it: the gradient is the same."""
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(module, nn.LayerNorm):
            normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
        else:
            epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            normal = nn.functional.rms_norm(x, x.shape[-1:], eps=epsilon)
    yield "weight", Sum(by_sample(delta * normal))
    if getattr(module, "bias", None) is not None:
        yield "bias", Sum(by_sample(delta))


def _patches(module: nn.Conv2d | nn.Conv3d, x: Tensor, delta: Tensor, by_sample: BySample) -> ByName:
    """A convolution that cuts its input into patches is a linear layer over them."""
    spatial = len(module.kernel_size)
    for axis, size in enumerate(module.kernel_size, start=2):
        x = x.unfold(axis, size, size)
    x = x.movedim(1, spatial + 1).flatten(spatial + 1)  # (R, *patches, channels × kernel)
    yield from _linear(module, x, delta.movedim(1, -1), by_sample)


def _is_rms_norm(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return type(module).__name__.endswith("RMSNorm") and names == ["weight"]


def _cuts_patches(module: nn.Conv2d | nn.Conv3d) -> bool:
    plain = all(pad == 0 for pad in module.padding) and all(gap == 1 for gap in module.dilation) and module.groups == 1
    return plain and tuple(module.kernel_size) == tuple(module.stride)
