"""Hooks that hand out the per-sample gradients of every layer while one backward pass goes by."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch
from ost.errors import ModelError
from ost.scoring.gradients.layers import BySample, LayerGradient, rule_for
from ost.scoring.passes.weights import language_modules

OnGradient = Callable[[str, LayerGradient], None]
"""Called with the name of a weight and its B per-sample gradients, once for each use of the weight."""


class GradientHooks:
    """Per-sample gradients of chosen weights of one model, without any of them taking a gradient itself.

    Raises ModelError, naming the layer, where a weight lies in one that there is no rule for.
    """

    def __init__(self, model: PreTrainedModel, weights: Mapping[str, Tensor]):
        self._model, self._owners, self._language = model, _owners(model, weights), language_modules(model)

    @contextlib.contextmanager
    def collecting(self, samples: Sequence[Sample], batch: Batch, on_gradient: OnGradient) -> Iterator[None]:
        """Calls `on_gradient` for every weight while the block runs a forward and a backward pass over the batch."""
        rows = _RowsBySample(samples, batch)
        frozen = [weight for weight in self._model.parameters() if weight.requires_grad]
        handles = []
        for module, names in self._owners.items():
            by_sample = rows.language if module in self._language else rows.vision
            handles.append(module.register_forward_hook(_hook(names, by_sample, on_gradient)))
        try:
            for weight in frozen:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(True)
            for handle in handles:
                handle.remove()


class _RowsBySample:
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
        counts = self._counts(len(rows))
        flat = self.language(rows)
        if len(set(counts)) == 1:
            return flat.reshape(len(counts), -1, rows.shape[-1])
        parts = [part.flatten(0, 1) for part in flat.split(counts)]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def _counts(self, rows: int) -> list[int]:
        """How many of the rows are of each sample, (B,)."""
        shares = [patches * rows / sum(self.patches) for patches in self.patches]
        if any(share != int(share) for share in shares):
            raise ModelError(f"`gradient` cannot tell which of {rows} rows belong to which of {len(shares)} images")
        own = iter(shares)
        return [sum(int(next(own)) for _ in range(count)) for count in self.images]


def _hook(names: Mapping[str, str], by_sample: BySample, on_gradient: OnGradient) -> Callable:
    """A forward hook that keeps its module's input until the gradient of the output comes by.

    `names`: of the module's scored weights, in it → in the model.
    """

    def forward(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        inputs = args[0].detach()
        is_root = not output.requires_grad  # nothing below is scored: the backward pass ends here
        tracked = output.detach().requires_grad_() if is_root else output

        @torch.no_grad()
        def backward(delta: Tensor) -> None:
            for local, gradient in rule_for(module)(module, inputs, delta.detach(), by_sample):
                if local in names:
                    on_gradient(names[local], gradient)

        tracked.register_hook(backward)
        return tracked.clone() if is_root else None  # a leaf could not be written to in place

    return forward


def _owners(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[nn.Module, dict[str, str]]:
    """For each module that uses a scored weight directly: the weight's name in it → its name in the model."""
    names = {id(weight): name for name, weight in weights.items()}
    owners: dict[nn.Module, dict[str, str]] = {}
    for path, module in model.named_modules():
        own = {local: names[id(w)] for local, w in module.named_parameters(recurse=False) if id(w) in names}
        if own and rule_for(module) is None:
            raise ModelError(
                f"`gradient` has no rule for {type(module).__name__} at {path or 'the top'} ({', '.join(own)}): leave "
                "it out by score.layers, or use `transposed`, which covers every layer"
            )
        if own:
            owners[module] = own
    return owners
