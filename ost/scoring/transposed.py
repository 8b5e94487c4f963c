"""`transposed`: step the anchors once, and read every pool sample's own loss on both sides of where they stood."""

import copy
from collections.abc import Iterator, Sequence

import torch

from ost.data import Sample
from ost.encoding import Encoder
from ost.errors import ModelError
from ost.models import Checkpoint
from ost.scoring.losses import batches, mean_gradient, sample_losses, scored_weights, shift
from ost.scoring.settings import Chunk, Settings


def transposed(
    proxy: Checkpoint, pool: Sequence[Sample], anchors: Sequence[Sample], settings: Settings
) -> Iterator[Chunk]:
    """Utility ⟨∇ℓ(z), ∇L_V⟩ of each sample z, the first-order term of `exact`, without a gradient of z.

    With d = ∇L_V / ‖∇L_V‖ the central difference (ℓ(z; θ + εd) − ℓ(z; θ − εd)) / 2ε is ⟨∇ℓ(z), d⟩ + O(ε²); times
    ‖∇L_V‖ it is in the unit of `exact`. `settings.step` is ε. Two shifted copies of the proxy are held; the proxy
    itself is untouched.

    Raises ModelError where the anchor gradient is zero or not finite.
    """
    encoder = Encoder(proxy)
    gradient = mean_gradient(proxy.model, encoder, anchors, settings.reduction, settings.batch_size)
    norm = torch.stack([part.double().square().sum() for part in gradient]).sum().sqrt().item()
    if not 0.0 < norm < float("inf"):
        raise ModelError(f"the anchor gradient has norm {norm}: check the proxy's weights and the anchors' answers")
    ahead, behind = (_shifted(proxy, gradient, sign * settings.step / norm) for sign in (+1, -1))
    for batch in batches(encoder, pool, settings.batch_size, proxy.model.device):
        with torch.no_grad():
            after, tokens = sample_losses(ahead, batch, settings.reduction)
            before, _ = sample_losses(behind, batch, settings.reduction)
        utility = (after - before) * (norm / (2 * settings.step))
        yield Chunk(utility.cpu(), ((after + before) / 2).cpu(), tokens.cpu())


def _shifted(proxy: Checkpoint, direction: Sequence[torch.Tensor], factor: float) -> torch.nn.Module:
    model = copy.deepcopy(proxy.model)
    shift(scored_weights(model), direction, factor)
    return model
