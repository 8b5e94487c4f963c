"""Many steps instead of one: what the pool's own losses gain while the proxy descends on the anchors."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.scoring.scorer import Chunk, Scorer
from ost.scoring.weights import move, scored_weights

SHORTEST = 1e-6
"""Rate at which the search for a shorter step ends."""


class LookaheadScorer(Scorer):
    """Loss that a sample loses while the proxy takes `steps` steps of gradient descent on all anchors.

    The many-step form of `transposed`: with one short step they rank alike, and where they part, the loss is curved.
    The rate starts at one, and is halved whenever a step gains less than half of what its gradient promises (Armijo's
    rule), so that every step goes down.
    """

    steps = 10

    def prepare(self) -> None:
        """Walk a copy of the proxy down the anchors' loss."""
        self._moved = copy.deepcopy(self.proxy.model)
        weights, rate = scored_weights(self._moved, self.settings.layers), 1.0
        batches = [self.encode(own) for own in self.anchor_batches()]
        for _ in range(self.steps):
            step = {name: stack[0] for name, stack in self.anchor_steps(self._moved).items()}
            rate = self._descend(weights, step, rate, batches)

    @torch.no_grad()
    def _descend(
        self, weights: Mapping[str, Tensor], step: Mapping[str, Tensor], rate: float, batches: Sequence[Batch]
    ) -> float:
        """Take one step, at this rate or the largest halving of it that Armijo's rule allows; returns the rate."""
        origin = {name: weight.detach().clone() for name, weight in weights.items()}
        here, promise = self._mean(batches), sum(self._promise(name, part) for name, part in step.items())
        while True:
            move(weights, origin, step, -rate)
            if here - self._mean(batches) >= rate * promise / 2 or rate < SHORTEST:
                return rate
            rate /= 2

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        """The samples' losses before and after the walk."""
        before, tokens = self.losses(batch)
        after, _ = self.losses(batch, self._moved)
        return self.chunk((before - after)[:, None], before, tokens, batch)

    def _promise(self, name: str, step: Tensor) -> float:
        """What the gradient promises of a step P g along one weight, by unit of rate: ⟨g, P g⟩."""
        factor = self.factors[name] if self.factors else 1.0
        return (step.double().square() / factor).sum().item()

    def _mean(self, batches: Sequence[Batch]) -> float:
        return torch.cat([self.losses(batch, self._moved)[0] for batch in batches]).mean().item()
