"""`transposed`: move the weights forth and back along the anchors' one step, and compare each sample's own loss."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch
from ost.execution.arithmetic import lowered
from ost.execution.losses import TokenLosses
from ost.scoring.anchors import mean_step, norm
from ost.scoring.methods.scorer import BatchScores, TurnScores
from ost.scoring.methods.two_pass import TwoPassScorer
from ost.scoring.passes.reuse import PassCache
from ost.scoring.passes.weights import move, moved_copy

Direction = tuple[dict[str, Tensor], float]
"""A step of length one, and the length that it had."""


class TransposedScorer(TwoPassScorer):
    """Utilities ⟨∇ℓ(z), g_d⟩, the first-order term of `exact`, without a gradient of z.

    With u = g / ‖g‖ the central difference (ℓ(z; θ + εu) − ℓ(z; θ − εu)) / 2ε is ⟨∇ℓ(z), u⟩ + O(ε²); times ‖g‖ it is in
    the unit of `exact`. Two forward passes a sample for each of the D anchor cells, any layer whatever, of which what
    lies below the first moved weight is taken once. `step` is ε. A second copy of the moved weights is held.

    To step on the test side, and read training samples by forward passes, is Mirrored Influence's (arXiv:2402.08922).
    """

    def prepare(self, store: Path | None = None) -> None:
        """The cells' steps, and a copy of the proxy to move along them."""
        self._units = self.anchor_steps()
        cells = range(len(self.partition.members))
        self._directions = [_scaled({name: stack[cell] for name, stack in self._units.items()}) for cell in cells]
        self._moved = moved_copy(self.proxy.model, self.weights)
        if self.arithmetic == "bf16":  # where it moves to is rounded, and from where, and how far, is not
            _ = self.reuse
            self._moved = lowered(self._moved, {}, "bf16")
            self.without_autocast(self._moved)
        self._weights = {name: self._moved.get_parameter(name) for name in self.weights}

    def compilable(self) -> list[PreTrainedModel]:
        """The copy that moves."""
        return [self._moved]

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """Both sides of θ along each direction; the sample's loss at θ is their mean, to O(ε²)."""
        cache = PassCache(samples)
        with self.states.recorded(self._moved, batch) as states:
            sides = [self._sides(batch, direction, cache) for direction in self._directions]
        utility = torch.stack([side.saved(self._by_sample) for side in sides], dim=1)
        by_turn = torch.stack([side.saved(_by_turn) for side in sides], dim=1)
        tokens, counts = sides[-1].ahead.by_sample()[1], sides[-1].ahead.by_turn()[1]
        saved = by_turn @ torch.as_tensor(self.partition.shares, device=by_turn.device)
        turns = TurnScores(saved.cpu(), sides[-1].mean(_by_turn).cpu(), counts.cpu())
        return self.batch_scores(utility, sides[-1].mean(self._by_sample), tokens, batch, *states, turns=turns)

    @torch.no_grad()
    def held_out(self, samples: Sequence[Sample] | None = None) -> np.ndarray:
        """See `Scorer.held_out`; here each fold has one direction, whatever the cells are."""
        utility, number = np.empty(len(self.anchors)), np.array(self.partition.folds)
        for fold in np.unique(number):
            outside = self.partition.shares * (number != fold)
            shares = outside if outside.any() else self.partition.shares
            lengths = np.array([length for _, length in self._directions])
            direction = _scaled(mean_step(self._units, shares / shares.sum() * lengths))
            own = [at for cell in np.flatnonzero(number == fold) for at in self.partition.members[cell]]
            passed = functools.partial(self._saved_by, direction)
            placed = [(samples or self.anchors)[at] for at in own]
            utility[own] = np.concatenate(self.without_gradients.run(placed, passed))
        return utility

    def _saved_by(self, direction: Direction, samples: Sequence[Sample], batch: Batch) -> np.ndarray:
        return self._sides(batch, direction, PassCache(samples)).saved(self._by_sample).cpu().numpy()

    def _sides(self, batch: Batch, direction: Direction, cache: PassCache) -> "_Sides":
        """The token losses ahead of θ and behind it."""
        unit, length = direction
        move(self._weights, self.weights, unit, self.settings.length)
        ahead = self.cached_token_losses(self._moved, batch, cache)
        move(self._weights, self.weights, unit, -self.settings.length)
        behind = self.cached_token_losses(self._moved, batch, cache)
        return _Sides(ahead, behind, length / (2 * self.settings.length))

    def _by_sample(self, losses: TokenLosses) -> Tensor:
        return losses.by_sample(self.settings.reduction)[0]


@dataclass(frozen=True)
class _Sides:
    """Losses of a batch's tokens at both ends of a step, and what their difference is multiplied with."""

    ahead: TokenLosses
    behind: TokenLosses
    scale: float

    def saved(self, of: Callable[[TokenLosses], Tensor]) -> Tensor:
        """Loss saved per unit of learning rate."""
        return (of(self.ahead) - of(self.behind)) * self.scale

    def mean(self, of: Callable[[TokenLosses], Tensor]) -> Tensor:
        """Loss in the middle of the step."""
        return (of(self.ahead) + of(self.behind)) / 2


def _by_turn(losses: TokenLosses) -> Tensor:
    return losses.by_turn()[0]


def _scaled(step: dict[str, Tensor]) -> Direction:
    """A step brought to length one, in place."""
    length = norm(step)
    if length:
        for part in step.values():
            part /= length
    return step, length
