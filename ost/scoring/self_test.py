"""The self-test of a proxy: on a few of the user's own samples, before long work, what scoring takes for granted.

A family's code can break each of these without an error. What makes utilities meaningless is refused; what a slower way
gets right is told as a fact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ost.data import Sample
from ost.encoding import Batch, Encoder, to_device
from ost.errors import ModelError
from ost.execution.losses import sample_losses
from ost.models import Checkpoint, family
from ost.scoring.passes.reuse import PassCache, PassReuse
from ost.scoring.passes.weights import moved_copy, scored_weights, untied
from ost.scoring.trial import NOISE, Trial

MOVE = 0.05
"""How far the copy's weights are moved, as a share of their spread."""


@dataclass(frozen=True)
class SelfTest:
    """What a proxy that may be scored with needs."""

    one_at_a_time: bool = False
    """A sample's logits depend on its batch mates, so a batch must hold one sample."""
    shares: bool = True
    """What lies below the first moved weight may run once for two passes."""
    notes: tuple[str, ...] = ()
    """What a person should know."""


def self_test(proxy: Checkpoint, samples: Sequence[Sample], layers: str) -> SelfTest:
    """Try a proxy on at most three of some samples: the shortest with one image, with several, and with none.

    Raises ModelError, naming family, reason and remedy, for a proxy whose utilities would mean nothing.
    """
    encoder, device = Encoder(proxy.processor), proxy.model.device
    return try_proxy(proxy, lambda own: to_device(encoder.training(own), device), few_of(samples), layers)


def few_of(samples: Sequence[Sample]) -> list[Sample]:
    """The shortest sample of each kind: with one image, with several, with none; three of one kind alone."""

    def length(sample: Sample) -> int:
        return sum(len(part["text"] or "") for turn in sample.messages for part in turn["content"] if "text" in part)

    ordered = sorted(samples, key=length)
    kinds = {min(len(sample.images), 2): sample for sample in reversed(ordered)}
    chosen = [kinds[kind] for kind in sorted(kinds, key=lambda kind: (kind == 0, kind))]
    return [*chosen, *(sample for sample in ordered if all(sample is not one for one in chosen))][:3]


@torch.no_grad()
def try_proxy(
    proxy: Checkpoint, encode: Callable[[Sequence[Sample]], Batch], samples: Sequence[Sample], layers: str
) -> SelfTest:
    """`self_test` on all of these samples, encoded by `encode`; an image of the first one is repeated in the batch."""
    model, samples = proxy.model, [*samples, samples[0]]
    trial = Trial(model, encode, samples)
    trial.rows_are_chosen()
    trial.answers_are_unseen()
    trial.training_shifts_labels()
    trial.images_are_seen()
    mates, shared = trial.largest_difference_alone(), _shares(proxy, trial.batch, samples, layers)
    notes = []
    if mates > trial.noise:
        notes.append(
            f"{family(model.config)}: a sample's logits depend on its batch mates (by {mates:.1e} of their spread), so "
            "samples are scored one at a time, which is slower"
        )
    if not shared:
        notes.append(
            f"{family(model.config)}: passes that share what lies below the moved weights differ from whole ones, so "
            "every pass is a whole one, which is slower"
        )
    return SelfTest(mates > trial.noise, shared, tuple(notes))


def _shares(proxy: Checkpoint, batch: Batch, samples: Sequence[Sample], layers: str) -> bool:
    """Whether losses by passes of a moved copy that share are those by whole ones; the move must show in them."""
    model = untied(proxy, layers).model
    weights = scored_weights(model, layers)
    moved = moved_copy(model, weights)
    generator = torch.Generator(model.device).manual_seed(0)
    for weight in scored_weights(moved, layers).values():
        step = MOVE * (weight.std().item() if weight.numel() > 1 else 1.0) or MOVE
        weight.add_(
            torch.randn(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype), alpha=step
        )
    reuse, cache, found = PassReuse(model, weights), PassCache(samples), []
    whole = torch.stack([sample_losses(own, batch)[0] for own in (model, moved)])
    size = (whole[0] - whole[1]).abs().max().item()
    if size < 1e-6:
        raise ModelError(
            f"the losses of {type(model).__name__} stay as they are when the {len(weights)} weights of score.layers "
            f"{layers!r} move: choose `all` or `language`"
        )
    if not (reuse.images or reuse.positions or reuse.first_moved):
        return True
    try:
        for own in (model, moved):
            with reuse.cached(own, cache):
                found.append(sample_losses(own, batch)[0])
    except torch.OutOfMemoryError:
        raise
    except Exception:  # models of any family: whole passes run
        return False
    return bool((torch.stack(found) - whole).abs().max() <= NOISE * size)
