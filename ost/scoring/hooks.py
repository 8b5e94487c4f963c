"""Per-sample gradients of every layer, as one backward pass goes by: who listens, and which rows are whose."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch
from ost.errors import ModelError
from ost.scoring.layers import Form, covers, forms
from ost.scoring.weights import language_modules

Report = Callable[[str, Form], None]
"""Told the name of a weight and its B per-sample gradients, once for each use of the weight."""


class Ear:
    """Hears the per-sample gradients of chosen weights of one model, without any of them taking a gradient itself.

    Raises ModelError, naming the layer, where a weight lies in one that there is no rule for.
    """

    def __init__(self, model: PreTrainedModel, weights: Mapping[str, Tensor]):
        self._model, self._owners, self._language = model, _owners(model, weights), language_modules(model)

    @contextlib.contextmanager
    def listening(self, samples: Sequence[Sample], batch: Batch, report: Report) -> Iterator[None]:
        """While the block runs a forward and a backward pass, every owner of a weight reports its gradients."""
        layout = _Layout(samples, batch)
        frozen = [weight for weight in self._model.parameters() if weight.requires_grad]
        handles = [
            module.register_forward_hook(_Listener(names, module in self._language, layout, report))
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


class _Layout:
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
    layout: _Layout
    report: Report

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        inputs = args[0].detach()
        root = not output.requires_grad  # nothing below is scored: the backward pass ends here
        heard = output.detach().requires_grad_() if root else output
        by_sample = self.layout.language if self.is_language else self.layout.vision

        def hear(delta: Tensor) -> None:
            with torch.no_grad():
                for own, form in forms(module, inputs, delta.detach(), by_sample):
                    if own in self.names:
                        self.report(self.names[own], form)

        heard.register_hook(hear)
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
