"""`gradient`: per-sample gradient products, read off layer by layer while one backward pass goes by."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch
from ost.errors import ModelError
from ost.scoring.layers import Form, covers, forms
from ost.scoring.losses import gradients
from ost.scoring.scorer import Chunk, Scorer
from ost.scoring.sketch import Sketcher
from ost.scoring.weights import language_modules

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
        model, self._directions = self.proxy.model, self.anchor_steps()
        self.sketcher = Sketcher(self.settings.sketches) if self.settings.sketches else None
        self._owners = _owners(model, self.weights)
        self._language = language_modules(model)
        self._check(sorted(self.anchors, key=lambda anchor: -len(anchor.images))[:4])

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        ledger = Ledger(self._directions, self.sketcher)
        with self._listening(samples, batch, ledger):
            losses, tokens = self.losses(batch)
            losses.sum().backward()
        return self.chunk(ledger.total, losses.detach(), tokens, batch, ledger.sketch)

    @contextlib.contextmanager
    def _listening(self, samples: Sequence[Sample], batch: Batch, ledger: "Ledger") -> Iterator[None]:
        """While the block runs, every owner of a scored weight reports its per-sample gradients to the ledger."""
        layout = Layout(samples, batch)
        frozen = [weight for weight in self.proxy.model.parameters() if weight.requires_grad]
        handles = [
            module.register_forward_hook(_Listener(names, module in self._language, layout, ledger))
            for module, names in self._owners.items()
        ]
        try:
            for weight in frozen:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(True)
            for handle in handles:
                handle.remove()

    def _check(self, samples: Sequence[Sample]) -> None:
        """Compare each weight's product with autograd's, along autograd's own gradient."""
        batch = self.encode(samples)
        truth = dict(
            zip(self.weights, gradients(self.losses(batch)[0].sum(), list(self.weights.values())), strict=True)
        )
        ledger = Ledger({name: gradient[None] for name, gradient in truth.items()}, None)
        with self._listening(samples, batch, ledger):
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


class Layout:
    """Which rows of an activation belong to which of the B samples of a batch."""

    def __init__(self, samples: Sequence[Sample], batch: Batch):
        self.images = [len(sample.images) for sample in samples]
        grid = batch.get("image_grid_thw")
        self.patches = [1] * sum(self.images) if grid is None else grid.prod(dim=1).tolist()

    def language(self, rows: Tensor) -> Tensor:
        """(B, …, d) → (B, L, d)."""
        return rows.reshape(len(rows), -1, rows.shape[-1])

    def vision(self, rows: Tensor) -> Tensor:
        """(R, …, d), images one behind the other, each with rows in proportion to its patches → (B, L, d)."""
        counts = self._rows_by_sample(len(rows))
        flat = rows.reshape(len(rows), -1, rows.shape[-1])
        if len(set(counts)) == 1:
            return flat.reshape(len(counts), -1, rows.shape[-1])
        parts = [part.flatten(0, 1) for part in flat.split(counts)]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def _rows_by_sample(self, rows: int) -> list[int]:
        shares = [patches * rows / sum(self.patches) for patches in self.patches]
        if any(share != int(share) for share in shares):
            raise ModelError(f"`gradient` cannot tell which of {rows} rows belong to which of {len(shares)} images")
        own = iter(shares)
        return [sum(int(next(own)) for _ in range(count)) for count in self.images]


@dataclass
class _Listener:
    """A forward hook: keeps a module's input until the gradient of its output comes by."""

    names: Mapping[str, str]
    is_language: bool
    layout: Layout
    ledger: Ledger

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        inputs = args[0].detach()
        root = not output.requires_grad  # nothing below is scored: the backward pass ends here
        heard = output.detach().requires_grad_() if root else output
        by_sample = self.layout.language if self.is_language else self.layout.vision

        def report(delta: Tensor) -> None:
            with torch.no_grad():
                for own, form in forms(module, inputs, delta.detach(), by_sample):
                    if own in self.names:
                        self.ledger.add(self.names[own], form)

        heard.register_hook(report)
        return heard.clone() if root else None  # a leaf could not be written to in place


def _owners(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[nn.Module, dict[str, str]]:
    """For each module that uses a scored weight directly: the weight's name in it → its name in the model."""
    names = {id(weight): name for name, weight in weights.items()}
    owners: dict[nn.Module, dict[str, str]] = {}
    for path, module in model.named_modules():
        own = {local: names[id(w)] for local, w in module.named_parameters(recurse=False) if id(w) in names}
        if own and not covers(module):
            raise ModelError(
                f"`gradient` has no rule for {type(module).__name__} at {path or 'the top'} ({', '.join(own)}): leave "
                "it out by score.layers, or use `transposed`, which covers every layer"
            )
        if own:
            owners[module] = own
    return owners
