"""Per-sample losses and gradients: fp32 weights, float64 accumulation, no dependence on batch mates."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import IGNORE, Batch, Encoder, to_device
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


def batches(encoder: Encoder, samples: Sequence[Sample], size: int, device: torch.device) -> Iterator[Batch]:
    """The samples as training batches on a device, in order."""
    for start in range(0, len(samples), size):
        yield to_device(encoder.training(samples[start : start + size]), device)


def scored_weights(model: PreTrainedModel) -> list[nn.Parameter]:
    """The weights that the simulated step moves: every trainable one, tied ones once."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def mean_gradient(
    model: PreTrainedModel, encoder: Encoder, samples: Sequence[Sample], reduction: Reduction, batch_size: int
) -> list[Tensor]:
    """Gradient of the samples' mean loss, a tensor for each of `scored_weights`."""
    weights = scored_weights(model)
    total = [torch.zeros_like(weight) for weight in weights]
    for batch in batches(encoder, samples, batch_size, model.device):
        losses, _ = sample_losses(model, batch, reduction)
        for into, gradient in zip(total, gradients(losses.sum() / len(samples), weights), strict=True):
            into += gradient
    return total


def gradients(loss: Tensor, weights: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Gradient of a scalar loss; zeros for a weight that it does not depend on."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, encoder: Encoder, samples: Sequence[Sample], reduction: Reduction, batch_size: int
) -> float:
    """Mean loss of the samples, accumulated in float64."""
    total = 0.0
    for batch in batches(encoder, samples, batch_size, model.device):
        total += sample_losses(model, batch, reduction)[0].sum().item()
    return total / len(samples)


@torch.no_grad()
def shift(weights: Sequence[Tensor], directions: Sequence[Tensor], factor: float) -> None:
    """Add `factor` × direction to each weight, in place."""
    for weight, direction in zip(weights, directions, strict=True):
        weight.add_(direction, alpha=factor)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
