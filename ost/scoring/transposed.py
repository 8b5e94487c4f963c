"""`transposed`: step the anchors once, and read every pool sample's own loss on both sides of where they stood."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.scoring.anchors import mean_step, norm
from ost.scoring.scorer import Chunk
from ost.scoring.sharing import Memory
from ost.scoring.two_pass import TwoPassScorer
from ost.scoring.weights import move, moved_copy, scored_weights

Direction = tuple[dict[str, Tensor], float]
"""A step of length one, and the length that it had."""


class TransposedScorer(TwoPassScorer):
    """Utilities ⟨∇ℓ(z), g_d⟩, the first-order term of `exact`, without a gradient of z.

    With u = g / ‖g‖ the central difference (ℓ(z; θ + εu) − ℓ(z; θ − εu)) / 2ε is ⟨∇ℓ(z), u⟩ + O(ε²); times ‖g‖ it is in
    the unit of `exact`. Two forward passes a sample for each of the D anchor cells, any layer whatever, of which what
    lies below the first moved weight is taken once. `step` is ε. A second copy of the moved weights is held.
    """

    def prepare(self) -> None:
        """The cells' steps, and a copy of the proxy to move along them."""
        self._steps = self.anchor_steps()
        cells = (
            {name: stack[index] for name, stack in self._steps.items()} for index in range(len(self.cells.members))
        )
        self._directions = [_along(cell) for cell in cells]
        self._moved = moved_copy(self.proxy.model, self.weights)
        self._weights = scored_weights(self._moved, self.settings.layers)

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        """Both sides of θ along each direction; the sample's loss at θ is their mean, to O(ε²)."""
        utility, memory, states = [], Memory(), None
        for direction in self._directions:
            saved, losses, tokens, heard = self._saved(samples, batch, direction, memory)
            utility.append(saved)
            states = heard if states is None else states
        return self.chunk(torch.stack(utility, dim=1), losses, tokens, batch, states)

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
                anchors = [self.anchors[at] for at in part]
                utility[part] = self._saved(anchors, self.encode(anchors), direction, Memory())[0].cpu().numpy()
        return utility

    def _saved(
        self, samples: Sequence[Sample], batch: Batch, direction: Direction, memory: Memory
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Loss saved per unit of learning rate, loss, and answer tokens of each sample, each (B,); and their states."""
        unit, length = direction
        move(self._weights, self.weights, unit, self.settings.step)
        ahead, tokens, states = self.heard(self._moved, batch, memory, samples)
        move(self._weights, self.weights, unit, -self.settings.step)
        behind, _ = self.passing(self._moved, batch, memory)
        return (ahead - behind) * (length / (2 * self.settings.step)), (ahead + behind) / 2, tokens, states


def _along(step: dict[str, Tensor]) -> Direction:
    length = norm(step)
    return ({name: part / length for name, part in step.items()} if length else step), length
