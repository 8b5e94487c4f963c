"""Per-sample losses and gradients: float64 accumulation, no dependence on batch mates."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import IGNORE, Batch, Encoder, to_device
from ost.models import Checkpoint
from ost.types import Progress, Reduction, silent


def sample_losses(model: PreTrainedModel, batch: Batch, reduction: Reduction = "mean") -> tuple[Tensor, Tensor]:
    """Each sample's answer loss in nats, (B,) float64, and its number of answer tokens, (B,).

    Token losses are reduced per sample, so padding and batch mates play no part.
    """
    labels = batch["labels"][:, 1:]
    inputs = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in batch.items() if name != "labels"}
    positions = (labels != IGNORE).any(dim=0).nonzero().squeeze(1)  # the columns that any sample is scored on
    logits = model(**inputs, logits_to_keep=positions).logits.double()
    targets = labels[:, positions]
    token_losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
    tokens = (targets != IGNORE).sum(dim=1)
    losses = token_losses.sum(dim=1)
    return (losses / tokens if reduction == "mean" else losses), tokens


@torch.no_grad()
def losses_of(
    samples: Sequence[Sample], checkpoint: Checkpoint, batch_size: int = 64, progress: Progress = silent
) -> np.ndarray:
    """Mean answer loss of each sample, (N,) float64 in nats, by a plain forward pass."""
    encoder, found = Encoder(checkpoint.processor), []
    for start in range(0, len(samples), batch_size):
        batch = to_device(encoder.training(samples[start : start + batch_size]), checkpoint.model.device)
        found.append(sample_losses(checkpoint.model, batch)[0].cpu().numpy())
        progress(min(start + batch_size, len(samples)), len(samples), "losses")
    return np.concatenate(found)


def gradients(loss: Tensor, weights: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Gradient of a scalar loss; zeros for a weight that it does not depend on."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
