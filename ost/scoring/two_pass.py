"""What `transposed` and `lookahead` share: a sample's own loss by the proxy and by moved copies of it."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ost.config import Score
from ost.data import Sample
from ost.encoding import Batch
from ost.models import Checkpoint
from ost.scoring.scorer import Scorer, bulk
from ost.scoring.sharing import Memory, Sharing
from ost.scoring.states import States


class TwoPassScorer(Scorer):
    """A method that needs no gradient of a pool sample; what lies below the first moved weight runs once a batch."""

    def __init__(self, proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, bf16: bool = False):
        self.states = States(settings.sketches) if settings.sketches else None
        super().__init__(proxy, anchors, settings, bf16)

    @functools.cached_property
    def sharing(self) -> Sharing:
        """What the proxy and its moved copies have in common."""
        return Sharing(self.proxy.model, self.weights)

    def passing(
        self, model: PreTrainedModel, batch: Batch, memory: Memory, samples: Sequence[Sample] = ()
    ) -> tuple[Tensor, Tensor]:
        """As `losses`, by the proxy or a moved copy of it; the first pass with a memory fills it, the others use it."""
        with self.sharing.passing(model, memory, [image for sample in samples for image in sample.images]):
            return self.losses(batch, model)

    def heard(
        self, model: PreTrainedModel, batch: Batch, memory: Memory, samples: Sequence[Sample]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A first pass, and the samples' states where they are asked for."""
        if self.states is None:
            return *self.passing(model, batch, memory, samples), None
        with self.states.heard(model, batch) as found:
            losses, tokens = self.passing(model, batch, memory, samples)
        return losses, tokens, found[0]

    def order(self, samples: Sequence[Sample]) -> list[int]:
        """By size, those that carry the same images beside each other."""
        sizes = [bulk(sample) for sample in samples]
        largest: dict[tuple[bytes, ...], float] = {}
        for sample, size in zip(samples, sizes, strict=True):
            largest[sample.images] = max(size, largest.get(sample.images, 0.0))
        return sorted(range(len(samples)), key=lambda at: (largest[samples[at].images], samples[at].images, sizes[at]))


@torch.no_grad()
def moved_share(scorer: TwoPassScorer, samples: Sequence[Sample]) -> float:
    """FLOPs of a pass that takes what is shared from memory, as a share of a whole pass's."""
    batch, memory = scorer.encode(samples), Memory()
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            scorer.passing(scorer.proxy.model, batch, memory)
        counts.append(counter.get_total_flops())
    return counts[1] / counts[0]
