"""What every scoring method is given, and what it yields."""

from dataclasses import dataclass

from torch import Tensor

from ost.types import Reduction


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a scoring method; `step` is η for `exact` and ε for `transposed`."""

    step: float = 1e-3
    reduction: Reduction = "mean"
    batch_size: int = 64


@dataclass(frozen=True)
class Chunk:
    """Results for the next B samples of the pool, on the CPU."""

    utility: Tensor
    """(B,) float64: anchor loss saved per unit of learning rate."""
    loss: Tensor
    """(B,) float64: the sample's own loss, in nats."""
    tokens: Tensor
    """(B,): answer tokens."""
