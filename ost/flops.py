"""FLOPs of a forward pass, counted by torch."""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from ost.data import Sample
from ost.encoding import Encoder, to_device
from ost.models import Checkpoint


def forward_flops(checkpoint: Checkpoint, samples: Sequence[Sample], probe: int = 16) -> float:
    """FLOPs of one forward pass over one sample: the mean over a probe batch, counted operation by operation by torch.

    Counts matrix products, convolutions and attention, as torch's FlopCounterMode does; padding is included.
    """
    some = samples[:: max(1, len(samples) // probe)][:probe]
    batch = to_device(Encoder(checkpoint.processor).prompts(some), checkpoint.model.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.model(**batch)
    return counter.get_total_flops() / len(some)
