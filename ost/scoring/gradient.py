"""`gradient`: per-sample gradient products, read off layer by layer while one backward pass goes by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ost.data import Sample
from ost.encoding import Batch
from ost.errors import ModelError
from ost.scoring.hooks import Ear
from ost.scoring.layers import Form
from ost.scoring.losses import gradients
from ost.scoring.scorer import Chunk, Scorer
from ost.scoring.sketch import Sketcher

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

    def prepare(self) -> None:
        """Find the modules that own the scored weights, and check every one of them against autograd."""
        self._directions = self.anchor_steps()
        self.sketcher = Sketcher(self.settings.sketches) if self.settings.sketches else None
        self._ear = Ear(self.proxy.model, self.weights)
        self._check(sorted(self.anchors, key=lambda anchor: -len(anchor.images))[:4])

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        ledger = Ledger(self._directions, self.sketcher)
        with self._ear.listening(samples, batch, ledger.add):
            losses, tokens = self.losses(batch)
            losses.sum().backward()
        return self.chunk(ledger.total, losses.detach(), tokens, batch, ledger.sketch)

    def _check(self, samples: Sequence[Sample]) -> None:
        """Compare each weight's product with autograd's, along autograd's own gradient."""
        batch = self.encode(samples)
        truth = dict(
            zip(self.weights, gradients(self.losses(batch)[0].sum(), list(self.weights.values())), strict=True)
        )
        ledger = Ledger({name: gradient[None] for name, gradient in truth.items()}, None)
        with self._ear.listening(samples, batch, ledger.add):
            self.losses(batch)[0].sum().backward()
        for name, gradient in truth.items():
            expected = gradient.double().square().sum().item()
            found = ledger.by_weight[name].sum().item() if name in ledger.by_weight else 0.0
            if abs(found - expected) > TOLERANCE * expected:
                raise ModelError(
                    f"`gradient` cannot score {name}: the model uses it outside its module's own forward pass "
                    f"(product {found:.3g}, autograd {expected:.3g}); leave it out by score.layers, or use `transposed`"
                )


@dataclass
class Ledger:
    """Sums of what the layers report for one batch."""

    directions: Mapping[str, Tensor]
    sketcher: Sketcher | None
    by_weight: dict[str, Tensor] = field(default_factory=dict)
    """(B, D) float64 products, by name of the weight; a tied weight's uses are added up."""
    sketch: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """(B, D) products over all weights."""
        return torch.stack(list(self.by_weight.values())).sum(dim=0)

    def add(self, name: str, form: Form) -> None:
        """Account for one use of a weight."""
        own = form.products(self.directions[name])
        self.by_weight[name] = self.by_weight[name] + own if name in self.by_weight else own
        if self.sketcher and (part := self.sketcher.of(name, form)) is not None:
            self.sketch = part if self.sketch is None else self.sketch + part
