"""`transposed`: step the anchors once, and read every pool sample's own loss on both sides of where they stood."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.scoring.anchors import mean_step, norm
from ost.scoring.scorer import Chunk, Scorer
from ost.scoring.weights import move, scored_weights

Direction = tuple[dict[str, Tensor], float]
"""A step of length one, and the length that it had."""


class TransposedScorer(Scorer):
    """Utilities ⟨∇ℓ(z), g_d⟩, the first-order term of `exact`, without a gradient of z.

    With u = g / ‖g‖ the central difference (ℓ(z; θ + εu) − ℓ(z; θ − εu)) / 2ε is ⟨∇ℓ(z), u⟩ + O(ε²); times ‖g‖ it is in
    the unit of `exact`. Two forward passes a sample for each of the D anchor cells, any layer whatever. `step` is ε. A
    second copy of the proxy is held, and moved.
    """

    def prepare(self) -> None:
        """The cells' steps, and a copy of the proxy to move along them."""
        self._steps = self.anchor_steps()
        cells = (
            {name: stack[index] for name, stack in self._steps.items()} for index in range(len(self.cells.members))
        )
        self._directions = [_along(cell) for cell in cells]
        self._moved = copy.deepcopy(self.proxy.model)
        self._weights = scored_weights(self._moved, self.settings.layers)

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        """Both sides of θ along each direction; the sample's loss at θ is their mean, to O(ε²)."""
        utility = []
        for direction in self._directions:
            saved, losses, tokens = self._saved(batch, direction)
            utility.append(saved)
        return self.chunk(torch.stack(utility, dim=1), losses, tokens, batch)

    @torch.no_grad()
    def held_out(self) -> np.ndarray:
        """As for any method, but by one direction a fold in place of one a cell."""
        utility, number = np.empty(len(self.anchors)), np.array(self.cells.folds)
        for fold in np.unique(number):
            outside = self.cells.shares * (number != fold)
            direction = _along(mean_step(self._steps, outside if outside.any() else self.cells.shares))
            own = [m for cell, m in enumerate(self.cells.members) if number[cell] == fold]
            for start in range(0, len(members := [at for cell in own for at in cell]), self._size):
                part = members[start : start + self._size]
                saved, _, _ = self._saved(self.encode([self.anchors[at] for at in part]), direction)
                utility[part] = saved.cpu().numpy()
        return utility

    def _saved(self, batch: Batch, direction: Direction) -> tuple[Tensor, Tensor, Tensor]:
        """Loss saved per unit of learning rate, loss, and answer tokens of each sample, each (B,)."""
        unit, length = direction
        move(self._weights, self.weights, unit, self.settings.step)
        ahead, tokens = self.losses(batch, self._moved)
        move(self._weights, self.weights, unit, -self.settings.step)
        behind, _ = self.losses(batch, self._moved)
        return (ahead - behind) * (length / (2 * self.settings.step)), (ahead + behind) / 2, tokens


def _along(step: dict[str, Tensor]) -> Direction:
    length = norm(step)
    return ({name: part / length for name, part in step.items()} if length else step), length
