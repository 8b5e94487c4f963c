"""What work costs: wall-clock seconds and floating-point operations."""

import time
from dataclasses import dataclass

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
