"""Hooks that hand out the per-sample gradients of every layer while one backward pass goes by."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import IGNORE, Batch
from ost.errors import ModelError
from ost.models.parts import language_modules
from ost.scoring.gradients.layers import BySample, LayerGradient, rule_for
from ost.scoring.gradients.pieces import image_token, pieces_by_sample

OnGradient = Callable[[str, LayerGradient], None]
"""Called with the name of a weight and its B per-sample gradients, once for each use of the weight."""


class GradientHooks:
    """Per-sample gradients of chosen weights of one model, without any of them taking a gradient itself.

    Raises ModelError, naming the layer, where a weight lies in one that there is no rule for.
    """

    def __init__(self, model: PreTrainedModel, weights: Mapping[str, Tensor]):
        self._model, self._owners, self._language = model, _owners(model, weights), language_modules(model)
        self._head = set(model.get_output_embeddings().modules())

    @contextlib.contextmanager
    def collecting(self, samples: Sequence[Sample], batch: Batch, on_gradient: OnGradient) -> Iterator[None]:
        """Calls `on_gradient` for every weight while the block runs a forward and a backward pass over the batch."""
        rows = _RowsBySample(samples, batch, image_token(self._model))
        frozen = [weight for weight in self._model.parameters() if weight.requires_grad]
        handles = []
        for module, names in self._owners.items():
            by_sample = rows.language if module in self._language else rows.vision
            by_sample = rows.answers if module in self._head else by_sample
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

    def __init__(self, samples: Sequence[Sample], batch: Batch, token: int | None):
        """`token`: what stands for a piece of an image, where the model's configuration names it."""
        self.images = [len(sample.images) for sample in samples]
        self.learned = (batch["labels"][:, 1:] != IGNORE).sum(dim=1).tolist()
        self.pieces = pieces_by_sample(batch, self.images, token)

    def answers(self, rows: Tensor) -> Tensor:
        """(…, d) at the places that predict answer tokens, sample by sample → (B, L, d)."""
        return nn.utils.rnn.pad_sequence(rows.flatten(0, -2).split(self.learned), batch_first=True)

    def language(self, rows: Tensor) -> Tensor:
        """(B, …, d) → (B, L, d)."""
        return rows.reshape(len(rows), -1, rows.shape[-1])

    def vision(self, rows: Tensor) -> Tensor:
        """(R, …, d), samples one behind the other, a row an image or rows in proportion to its pieces → (B, L, d)."""
        counts = self._counts(len(rows))
        flat = self.language(rows)
        if len(set(counts)) == 1:
            return flat.reshape(len(counts), -1, rows.shape[-1])
        parts = [part.flatten(0, 1) for part in flat.split(counts)]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def _counts(self, rows: int) -> list[int]:
        """How many of the rows are of each sample, (B,)."""
        if rows == sum(self.images):
            return self.images
        shares = [own * rows / max(1, sum(self.pieces)) for own in self.pieces]
        if sum(shares) != rows or any(share != int(share) for share in shares):
            raise ModelError(
                f"`gradient` cannot tell which of {rows} rows belong to which of {sum(self.images)} images: set "
                "score.layers to `language`, or use `transposed`"
            )
        return [int(share) for share in shares]


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
