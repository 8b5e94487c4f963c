"""`exact`: the paper's simulated step, taken for each sample by itself; the reference for the faster methods."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.execution.losses import gradients
from ost.scoring.methods.scorer import BatchScores, Scorer
from ost.scoring.passes.weights import move


class ExactScorer(Scorer):
    """Utilities (L_d(θ) − L_d(θ − η P ∇ℓ(z; θ))) / η for every anchor cell d (arXiv:2605.07488, utility's definition).

    Divided by the step size η they are in the unit of the other methods: anchor loss per unit of learning rate. P is
    the optimizer's preconditioner, one for SGD. A forward and a backward pass a sample, and a forward pass over all A
    anchors. In fp32 the difference of two close losses is resolved to about 1e-7 / η; a float64 proxy does better,
    down to η ≈ 1e-5, where the norms that transformers always takes in fp32 begin to show.
    """

    takes_gradients = True

    def prepare(self, store: Path | None = None) -> None:
        """Encode the anchors once, and take their losses where the proxy stands."""
        self.batches.budget.most = 1
        self._batches = self.without_gradients.run(self.anchors, self._tried)
        self._origin = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._before = self._cell_losses()

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """Take one step on each sample, measure the anchors' losses, and put the weights back."""
        losses, tokens = self.losses(batch)
        step = dict(zip(self.weights, gradients(losses.sum(), list(self.weights.values())), strict=True))
        if self.factors:
            step = {name: gradient * self.factors[name] for name, gradient in step.items()}
        move(self.weights, self._origin, step, -self.settings.length)
        utility = (self._before - self._cell_losses()) / self.settings.length
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self._origin[name])
        return self.batch_scores(utility[None], losses.detach(), tokens, batch)

    @torch.no_grad()
    def _tried(self, anchors: Sequence[Sample], batch: Batch) -> Batch:
        """The batch, which fits."""
        self.losses(batch)
        return batch

    @torch.no_grad()
    def _cell_losses(self) -> Tensor:
        """(D,) float64: mean loss of each cell's anchors."""
        losses = torch.cat([self.losses(batch)[0] for batch in self._batches])
        return torch.stack([losses[list(members)].mean() for members in self.partition.members])
