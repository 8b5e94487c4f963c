"""Low loss: the proxy's own loss on each sample, the filter by perplexity that many pools are cleaned with."""

from collections.abc import Sequence

import numpy as np
import torch

from ost.cost import Cost, Stopwatch, forward_flops
from ost.data import Sample
from ost.encoding import Encoder, to_device
from ost.models import Checkpoint
from ost.scoring.losses import sample_losses
from ost.types import Progress, silent


@torch.no_grad()
def low_loss(
    pool: Sequence[Sample], proxy: Checkpoint, batch_size: int = 64, progress: Progress = silent
) -> tuple[np.ndarray, Cost]:
    """Minus the mean answer loss (N,) of each sample, in nats, higher being better; and its cost, one forward pass."""
    watch, encoder, found = Stopwatch(), Encoder(proxy), []
    for start in range(0, len(pool), batch_size):
        batch = to_device(encoder.training(pool[start : start + batch_size]), proxy.model.device)
        found.append(sample_losses(proxy.model, batch)[0].cpu().numpy())
        progress(min(start + batch_size, len(pool)), len(pool), "losses")
    return -np.concatenate(found), Cost(watch.seconds, forward_flops(proxy, pool) * len(pool))
