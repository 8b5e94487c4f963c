"""What work costs: wall-clock seconds and floating-point operations."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ost.data import Sample
from ost.encoding import Encoder, to_device
from ost.models import Checkpoint

BACKWARD = 2
"""A backward pass costs about twice its forward pass (two matrix products for each one)."""


@dataclass(frozen=True)
class Cost:
    """Seconds of wall clock and FLOPs; costs add up."""

    seconds: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.flops + other.flops)


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start


def forward_flops(checkpoint: Checkpoint, samples: Sequence[Sample], probe: int = 16) -> float:
    """FLOPs of one forward pass over one sample: the mean over a probe batch, counted operation by operation by torch.

    Counts matrix products, convolutions and attention, as torch's FlopCounterMode does; padding is included.
    """
    some = samples[:: max(1, len(samples) // probe)][:probe]
    batch = to_device(Encoder(checkpoint).prompts(some), checkpoint.model.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.model(**batch)
    return counter.get_total_flops() / len(some)
