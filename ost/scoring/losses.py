"""Per-sample losses and gradients: float64 accumulation, no dependence on batch mates."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.encoding import IGNORE, Batch
from ost.types import Reduction


def sample_losses(model: PreTrainedModel, batch: Batch, reduction: Reduction = "mean") -> tuple[Tensor, Tensor]:
    """Each sample's answer loss in nats, (B,) float64, and its number of answer tokens, (B,).

    Token losses are reduced per sample, so padding and batch mates play no part.
    """
    labels = batch["labels"][:, 1:]
    inputs = {name: _cast(tensor, model.dtype) for name, tensor in batch.items() if name != "labels"}
    positions = (labels != IGNORE).any(dim=0).nonzero().squeeze(1)  # the columns that any sample is scored on
    logits = model(**inputs, logits_to_keep=positions).logits.double()
    targets = labels[:, positions]
    token_losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
    tokens = (targets != IGNORE).sum(dim=1)
    losses = token_losses.sum(dim=1)
    return (losses / tokens if reduction == "mean" else losses), tokens


def gradients(loss: Tensor, weights: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Gradient of a scalar loss; zeros for a weight that it does not depend on."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
