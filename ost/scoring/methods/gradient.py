"""`gradient`: per-sample gradient products, read off layer by layer while one backward pass goes by."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.errors import ModelError
from ost.execution.losses import AnswerLosses, gradients
from ost.scoring.gradients.hooks import GradientHooks
from ost.scoring.gradients.layers import LayerGradient
from ost.scoring.gradients.sketch import Sketcher
from ost.scoring.methods.scorer import BatchScores, Scorer

TOLERANCE = 1e-2
"""Largest error of a layer's product in the check against autograd, as a share of its two lengths' product."""


class GradientScorer(Scorer):
    """Utilities ⟨∇ℓ(z), g_d⟩ with the gradient g_d of every anchor cell, exact to the arithmetic's rounding.

    One forward and one backward pass a batch. Weights take no gradient: as each layer's output gradient δ passes, the
    per-sample gradients of that layer alone are formed from δ and the layer's input, multiplied with the cells'
    gradients, and dropped. Layers below the lowest scored one see no backward pass.

    A layer that there is no rule for, or whose products differ from autograd's on a few anchors, is refused by name
    with a ModelError.
    """

    takes_gradients = True

    def prepare(self, store: Path | None = None) -> None:
        """Find the modules that own the scored weights, and check every one of them against autograd."""
        head = {id(weight) for weight in self.proxy.model.get_output_embeddings().parameters()}
        if any(id(weight) in head for weight in self.weights.values()):
            self.answer_losses = AnswerLosses(chunked=False)  # the hooks take all of a head's rows at once
        self._directions = self.anchor_steps()
        self._sketcher = Sketcher(self.settings.sketches) if self.settings.sketches else None
        self._hooks = GradientHooks(self.proxy.model, self.weights)
        self._check(sorted(self.anchors, key=lambda anchor: -len(anchor.images))[:4])

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """Products and sketches of the samples' gradients."""
        losses, tokens, products, sketch = self._pass(samples, batch, self._directions, self._sketcher)
        total = torch.stack(list(products.values())).sum(dim=0)
        return self.batch_scores(total, losses, tokens, batch, sketch)

    def _pass(
        self, samples: Sequence[Sample], batch: Batch, directions: Mapping[str, Tensor], sketcher: Sketcher | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor | None]:
        """One forward and one backward pass: losses and answer tokens, each (B,), products by weight, and sketches.

        Products are (B, D) float64 with the D directions; a tied weight's uses are added up. Sketches are (B, k²).
        """
        products: dict[str, Tensor] = {}
        sketches: list[Tensor] = []

        def on_gradient(name: str, gradient: LayerGradient) -> None:
            own = gradient.products(directions[name])
            products[name] = products[name] + own if name in products else own
            if sketcher and (sketch := sketcher.of(name, gradient)) is not None:
                sketches.append(sketch)

        with self._hooks.collecting(samples, batch, on_gradient):
            losses, tokens = self.losses(batch)
            losses.sum().backward()
        return losses.detach(), tokens, products, functools.reduce(torch.add, sketches) if sketches else None

    def _check(self, samples: Sequence[Sample]) -> None:
        """Compare each weight's product with autograd's, along autograd's own gradient."""
        batch, weights = self.encode(samples), list(self.weights.values())
        truth = dict(zip(self.weights, gradients(self.losses(batch)[0].sum(), weights), strict=True))
        directions = {name: gradient[None] for name, gradient in truth.items()}
        _, _, products, _ = self._pass(samples, batch, directions, None)
        for name, gradient in truth.items():
            expected = gradient.double().square().sum().item()
            found = products[name].sum().item() if name in products else 0.0
            if abs(found - expected) > TOLERANCE * expected:
                raise ModelError(
                    f"`gradient` cannot score {name}: the model uses it outside its module's own forward pass "
                    f"(product {found:.3g}, autograd {expected:.3g}); leave it out by score.layers, or use `transposed`"
                )
