"""The base class of `transposed` and `lookahead`: a sample's own loss by the proxy and by moved copies of it."""

import contextlib
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch
from ost.execution.arithmetic import computing
from ost.execution.batches import approximate_tokens
from ost.execution.losses import TokenLosses
from ost.scoring.methods.scorer import Scorer
from ost.scoring.passes.hidden_states import HiddenStates
from ost.scoring.passes.reuse import PassCache, PassReuse


class TwoPassScorer(Scorer):
    """A method that needs no gradient of a pool sample; what lies below the first moved weight runs once a batch."""

    @functools.cached_property
    def reuse(self) -> PassReuse:
        """What the proxy and its moved copies have in common."""
        with computing(self.device, self.autocast):
            return PassReuse(self.proxy.model, self.weights)

    @functools.cached_property
    def states(self) -> HiddenStates:
        """What records the samples' states, where they are asked for."""
        return HiddenStates(self.settings.sketches)

    def cached_losses(self, model: PreTrainedModel, batch: Batch, cache: PassCache) -> tuple[Tensor, Tensor]:
        """As `losses`, by the proxy or a moved copy of it; the first pass with a cache fills it, the others use it."""
        return self.cached_token_losses(model, batch, cache).by_sample(self.settings.reduction)

    def cached_token_losses(self, model: PreTrainedModel, batch: Batch, cache: PassCache) -> TokenLosses:
        """As `token_losses`, likewise."""
        with self.reuse.cached(model, cache) if self.proxy.shares else contextlib.nullcontext():
            return self.token_losses(batch, model)

    def order(self, samples: Sequence[Sample]) -> list[int]:
        """By size, those that carry the same images beside each other."""
        sizes = [approximate_tokens(sample) for sample in samples]
        largest: dict[tuple[bytes, ...], float] = {}
        for sample, size in zip(samples, sizes, strict=True):
            largest[sample.images] = max(size, largest.get(sample.images, 0.0))
        return sorted(range(len(samples)), key=lambda at: (largest[samples[at].images], samples[at].images, sizes[at]))


@torch.no_grad()
def moved_share(scorer: TwoPassScorer, samples: Sequence[Sample]) -> float:
    """FLOPs of a pass that takes what is shared from a cache, as a share of a whole pass's."""
    model = scorer.proxy.model
    scorer.cached_losses(model, scorer.encode(samples[:1]), PassCache())  # what is found out once

    def counted(_: Sequence[Sample], batch: Batch) -> tuple[int, int]:
        cache, counts = PassCache(), []
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                scorer.cached_losses(model, batch, cache)
            counts.append(counter.get_total_flops())
        return counts[0], counts[1]

    whole, shared = map(sum, zip(*scorer.without_gradients.run(samples, counted), strict=True))
    return shared / whole
