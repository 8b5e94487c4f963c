"""How a model is trained, and which samples each step takes."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

RATES = {False: ((1e7, 1e-3), (1e9, 2e-5), (math.inf, 1e-5)), True: ((1e7, 2e-3), (1e9, 2e-4), (math.inf, 1e-4))}
"""Peak learning rates of whole weights, and of an adapter (True), of models with fewer weights than stands before each.

1e-5 and 1e-4: what ms-swift and LLaMA-Factory set for models of 2 to 8 B; 2e-5 and 2e-4: LLaVA-1.5 (arXiv:2310.03744);
an adapter's is ten times that of whole weights, as in "LoRA Without Regret" (Thinking Machines, 2025); below 10 M: the
built-in world's. Those of the training on the anchors: `ost.scoring.methods.anchor_training`.
"""


def usual_rate(weights: int, adapter: bool = False) -> float:
    """The peak learning rate of a model with so many weights, where nobody says another: see RATES."""
    return next(rate for most, rate in RATES[adapter] if weights < most)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: AdamW, linear warm-up, cosine decay to zero, the gradient's norm clipped to 1."""

    steps: int
    batch_size: int
    """Samples of one step, however many go through the model at once."""
    learning_rate: float
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    seed: int = 0
    gradient_checkpointing: bool = False
    """Whether the blocks' activations are computed anew in the backward pass instead of being kept: less memory, a
    third more time, the same gradient."""

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: the first one's is 0, as in `transformers`' schedules."""
        if step < self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return max(1, round(self.warmup_ratio * self.steps))

    def order(self, count: int, start: int = 0) -> Iterator[list[int]]:
        """Which of `count` samples each step takes, from the step `start` on, to the last.

        Each epoch takes every sample once, in an order that the seed and the epoch give; its last step takes what is
        left of it.
        """
        return itertools.islice(self._every(count), start, self.steps)

    def _every(self, count: int) -> Iterator[list[int]]:
        for epoch in itertools.count():
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
            for place in range(0, count, self.batch_size):
                yield order[place : place + self.batch_size]
