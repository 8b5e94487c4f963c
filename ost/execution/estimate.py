"""Estimates: what a model takes of a device's memory, counted from its configuration, and how long its work takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from ost.models import reads_images

FP32 = 4
"""Bytes of a number."""


def on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """A model of this configuration whose weights have shapes and no numbers, and so take no memory."""
    auto = AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config, dtype=torch.float32, trust_remote_code=False)


def count_of(module: nn.Module) -> int:
    """Numbers among a module's weights, tied ones once."""
    return sum(weight.numel() for weight in module.parameters())


def training_bytes(weights: int, trained: int | None = None) -> int:
    """Least bytes of a training in fp32: all weights, and a gradient and Adam's two moments of those that are trained.

    What a batch takes comes on top.
    """
    return FP32 * (weights + 3 * (weights if trained is None else trained))


@dataclass
class Timeline:
    """A progress callback that remembers when it was called."""

    clock: Callable[[], float] = time.perf_counter
    calls: list[tuple[float, int, str]] = field(default_factory=list)
    """(seconds since the start, done, note)"""

    def __post_init__(self) -> None:
        self._start = self.clock()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Take the time."""
        self.calls.append((self.clock() - self._start, done, note))

    def until(self, *notes: str) -> float:
        """Seconds from the start to the last call whose note begins with one of these; 0 where there is none."""
        return max((at for at, _, note in self.calls if note.startswith(notes)), default=0.0)

    def rate(self, note: str) -> float:
        """Units a second between the first and the last call with such a note; 0 for fewer than two."""
        own = [(at, done) for at, done, told in self.calls if told.startswith(note)]
        if len(own) < 2 or own[-1][0] <= own[0][0]:
            return 0.0
        return (own[-1][1] - own[0][1]) / (own[-1][0] - own[0][0])
