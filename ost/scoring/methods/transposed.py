"""`transposed`: move the weights forth and back along the anchors' one step, and compare each sample's own loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.scoring.anchors import mean_step, norm
from ost.scoring.methods.scorer import BatchScores
from ost.scoring.methods.two_pass import TwoPassScorer
from ost.scoring.passes.reuse import PassCache
from ost.scoring.passes.weights import move, moved_copy, scored_weights

Direction = tuple[dict[str, Tensor], float]
"""A step of length one, and the length that it had."""


class TransposedScorer(TwoPassScorer):
    """Utilities ⟨∇ℓ(z), g_d⟩, the first-order term of `exact`, without a gradient of z.

    With u = g / ‖g‖ the central difference (ℓ(z; θ + εu) − ℓ(z; θ − εu)) / 2ε is ⟨∇ℓ(z), u⟩ + O(ε²); times ‖g‖ it is in
    the unit of `exact`. Two forward passes a sample for each of the D anchor cells, any layer whatever, of which what
    lies below the first moved weight is taken once. `step` is ε. A second copy of the moved weights is held.
    """

    def prepare(self, store: Path | None = None) -> None:
        """The cells' steps, and a copy of the proxy to move along them."""
        self._steps = self.anchor_steps()
        cells = range(len(self.partition.members))
        self._directions = [_unit({name: stack[cell] for name, stack in self._steps.items()}) for cell in cells]
        self._moved = moved_copy(self.proxy.model, self.weights)
        self._weights = scored_weights(self._moved, self.settings.layers)

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """Both sides of θ along each direction; the sample's loss at θ is their mean, to O(ε²)."""
        utility, cache = [], PassCache(samples)
        with self.states.recorded(self._moved, batch) as states:
            for direction in self._directions:
                saved, losses, tokens = self._saved(batch, direction, cache)
                utility.append(saved)
        return self.batch_scores(torch.stack(utility, dim=1), losses, tokens, batch, *states)

    @torch.no_grad()
    def held_out(self) -> np.ndarray:
        """See `Scorer.held_out`; here each fold has one direction, whatever the cells are."""
        utility, number = np.empty(len(self.anchors)), np.array(self.partition.folds)
        for fold in np.unique(number):
            outside = self.partition.shares * (number != fold)
            direction = _unit(mean_step(self._steps, outside if outside.any() else self.partition.shares))
            own = [at for cell in np.flatnonzero(number == fold) for at in self.partition.members[cell]]
            for start in range(0, len(own), self._size):
                part = own[start : start + self._size]
                anchors = [self.anchors[at] for at in part]
                utility[part] = self._saved(self.encode(anchors), direction, PassCache(anchors))[0].cpu().numpy()
        return utility

    def _saved(self, batch: Batch, direction: Direction, cache: PassCache) -> tuple[Tensor, Tensor, Tensor]:
        """Loss saved per unit of learning rate, loss, and answer tokens of each sample, each (B,)."""
        unit, length = direction
        move(self._weights, self.weights, unit, self.settings.step)
        ahead, tokens = self.cached_losses(self._moved, batch, cache)
        move(self._weights, self.weights, unit, -self.settings.step)
        behind, _ = self.cached_losses(self._moved, batch, cache)
        return (ahead - behind) * (length / (2 * self.settings.step)), (ahead + behind) / 2, tokens


def _unit(step: dict[str, Tensor]) -> Direction:
    length = norm(step)
    return ({name: part / length for name, part in step.items()} if length else step), length
