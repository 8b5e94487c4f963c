"""`exact`: the paper's simulated step, taken for each sample by itself; the reference for the faster methods."""

from collections.abc import Iterator, Sequence

import torch

from ost.data import Sample
from ost.encoding import Encoder
from ost.models import Checkpoint
from ost.scoring.losses import batches, gradients, mean_loss, sample_losses, scored_weights, shift
from ost.scoring.settings import Chunk, Settings


def exact(proxy: Checkpoint, pool: Sequence[Sample], anchors: Sequence[Sample], settings: Settings) -> Iterator[Chunk]:
    """Utility (L_V(θ) − L_V(θ − η ∇ℓ(z; θ))) / η of each sample z (arXiv:2605.07488, the utility's definition).

    Divided by the step size η it is in the unit of `transposed`: anchor loss per unit of learning rate. One backward
    pass a sample and one forward pass over all A anchors. In fp32 the difference of two close losses is resolved to
    about 1e-7 / η; a float64 proxy does better, down to η ≈ 1e-5, where the norms that transformers always takes
    in fp32 begin to show. The proxy's weights are restored bit by bit.
    """
    model, encoder, eta = proxy.model, Encoder(proxy), settings.step
    weights = scored_weights(model)
    original = [weight.detach().clone() for weight in weights]

    def anchor_loss() -> float:
        return mean_loss(model, encoder, anchors, settings.reduction, settings.batch_size)

    before = anchor_loss()
    for batch in batches(encoder, pool, 1, model.device):
        losses, tokens = sample_losses(model, batch, settings.reduction)
        shift(weights, gradients(losses.sum(), weights), -eta)
        utility = (before - anchor_loss()) / eta
        _restore(weights, original)
        yield Chunk(torch.tensor([utility], dtype=torch.float64), losses.detach().cpu(), tokens.cpu())


@torch.no_grad()
def _restore(weights: Sequence[torch.Tensor], original: Sequence[torch.Tensor]) -> None:
    for weight, value in zip(weights, original, strict=True):
        weight.copy_(value)
