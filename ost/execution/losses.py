"""Losses of answers: logits are computed where an answer token is predicted, a few rows at a time, and nowhere else.

Which rows those are is told to a model in front of its own output head, so whatever the model does to its states before
the head, or to its logits behind it, stays its own affair.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ost.encoding import IGNORE, Batch
from ost.errors import ModelError
from ost.types import Reduction

LOGITS = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes of logits that are computed at a time, by the type of device."""


@dataclass(frozen=True)
class TokenLosses:
    """The losses of a batch's R answer tokens, sample by sample."""

    values: Tensor
    """(R,) in nats, fp32 or wider."""
    samples: Tensor
    """(R,) int64: which of the B samples each token is of."""
    learned: Tensor
    """(B, T - 1) bool: which tokens, but for the first of each row, are answers."""

    def by_sample(self, reduction: Reduction = "mean") -> tuple[Tensor, Tensor]:
        """Each sample's loss, (B,) float64, and its number of answer tokens, (B,)."""
        tokens = self.learned.sum(dim=1)
        losses = self._sums(self.samples, len(self.learned))
        return (losses / tokens if reduction == "mean" else losses), tokens

    def by_turn(self) -> tuple[Tensor, Tensor]:
        """Mean loss of each learned turn, (U,) float64 over all samples' turns, and how many each sample has, (B,).

        A turn is a run of answer tokens: whatever a template writes around answers parts them.
        """
        starts = self.learned & ~nn.functional.pad(self.learned, (1, 0))[:, :-1]
        turns = starts.flatten().cumsum(0)[self.learned.flatten()] - 1
        counts = starts.sum(dim=1)
        total = int(counts.sum())
        return self._sums(turns, total) / torch.bincount(turns, minlength=total), counts

    def _sums(self, groups: Tensor, count: int) -> Tensor:
        return self.values.new_zeros(count, dtype=torch.float64).index_add(0, groups, self.values.double())


class AnswerLosses:
    """Computes the losses of answers, by one model or by moved copies of it.

    The model's own pass is given one row for its head, which is then applied to all of them, in chunks. A model that
    scales or caps what its head gives is told by that one row, and its head then gets all rows at once.
    """

    def __init__(self, chunked: bool = True):
        """`chunked`: whether the head may be applied a few rows at a time; where it takes hooks it may not be."""
        self._chunked = chunked
        self._ends_with_head: bool | None = None

    def __call__(self, model: PreTrainedModel, batch: Batch) -> TokenLosses:
        """The losses of the batch's answer tokens; raises ModelError for a model that has no output head."""
        learned = batch["labels"][:, 1:] != IGNORE
        targets, samples = batch["labels"][:, 1:][learned], learned.nonzero()[:, 0]
        head = model.get_output_embeddings()
        if head is None:
            raise ModelError(
                f"{type(model).__name__} names no output head, so no answer's loss is known: choose another"
            )
        if self._ends_with_head is not False:
            states, first = _pass(model, head, batch, learned, slice(1))
            if self._ends_with_head is None:
                self._ends_with_head = _is_what_it_gives(head, states, first)
        if not self._ends_with_head:
            _, logits = _pass(model, head, batch, learned, slice(None))
            return TokenLosses(_token_losses(logits, targets), samples, learned)
        return TokenLosses(self._by_chunks(head, states, targets), samples, learned)

    def _by_chunks(self, head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
        """(R,) losses; where gradients are taken, a chunk's logits are computed once more for them, and not kept."""
        losses: Callable[[Tensor, Tensor], Tensor] = functools.partial(_head_losses, head)
        size = max(1, LOGITS.get(states.device.type, LOGITS["cuda"]) // (4 * len(head.weight)))
        if size >= len(states) or not self._chunked:
            return losses(states, targets)
        if torch.is_grad_enabled():
            losses = functools.partial(checkpoint, losses, use_reentrant=False)
        return torch.cat([losses(*part) for part in zip(states.split(size), targets.split(size), strict=True)])


def sample_losses(model: PreTrainedModel, batch: Batch, reduction: Reduction = "mean") -> tuple[Tensor, Tensor]:
    """Each sample's answer loss in nats, (B,) float64, and its number of answer tokens, (B,).

    Token losses are reduced per sample, so padding and batch mates play no part.
    """
    return AnswerLosses()(model, batch).by_sample(reduction)


def model_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """What a model's pass over a batch is given: numbers in its own precision, no labels, and no wish for caches."""
    inputs = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in batch.items() if name != "labels"}
    return inputs | ({"use_cache": False} if _hears_of_caches(type(model)) else {})


def gradients(loss: Tensor, weights: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Gradient of a scalar loss; zeros for a weight that it does not depend on."""
    return torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)


def _head_losses(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(head(states), targets)


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(R,) cross entropy in fp32, or in float64 where logits are."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return nn.functional.cross_entropy(logits, targets, reduction="none")


def _pass(model: PreTrainedModel, head: nn.Module, batch: Batch, learned: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """The states (R, d) that predict answer tokens, as they go into the head, and the logits of some of them."""
    found: list[Tensor] = []

    def select(module: nn.Module, args: tuple) -> tuple:
        states = args[0][:, :-1][learned]
        found.append(states)
        return (states[None, rows], *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        logits = model(**model_inputs(model, batch)).logits
    finally:
        handle.remove()
    return found[0], logits.flatten(0, -2)


@functools.cache
def _hears_of_caches(kind: type[PreTrainedModel]) -> bool:
    """Whether a family can be told to keep no keys and values: by a parameter of its own, or one that it hands on."""
    parameters = inspect.signature(kind.forward).parameters
    return "use_cache" in parameters or any(own.kind is own.VAR_KEYWORD for own in parameters.values())


@torch.no_grad()
def _is_what_it_gives(head: nn.Module, states: Tensor, logits: Tensor) -> bool:
    """Whether the model's logits of the first of the states are what its head gives, as they are."""
    return torch.equal(head(states[None, :1]).flatten(0, -2).float(), logits.float())
