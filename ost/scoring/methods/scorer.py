"""The base class of the scoring methods: prepared once from the anchors, then called with any samples."""

import dataclasses
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch, to_device
from ost.errors import ModelError
from ost.execution.arithmetic import computing, lowered
from ost.execution.batches import Batches, approximate_tokens, batches_for, budget_for
from ost.execution.compiling import compile_blocks
from ost.execution.losses import AnswerLosses, TokenLosses, gradients
from ost.models import Checkpoint
from ost.scoring.anchors import mean_step, norm, partition_of
from ost.scoring.passes.weights import preconditioner, scored_weights, untied
from ost.scoring.statistics import without_own
from ost.settings import Execution, Score
from ost.store import lists, matrix
from ost.types import Arithmetic

COMPILED = 4
"""Anchors that compiled blocks are tried on."""


@dataclass(frozen=True)
class BatchScores:
    """Results for the B samples of a batch, on the CPU."""

    utility: Tensor
    """(B, D) float64: loss of each anchor cell saved per unit of learning rate."""
    loss: Tensor
    """(B,) float64: the sample's own loss, in nats."""
    tokens: Tensor
    """(B,) int64: answer tokens."""
    length: Tensor
    """(B,) int64: tokens of the whole sample, which is what a training step on it costs."""
    sketch: Tensor | None = None
    """(B, k²) float32: of the sample's gradient, or of its hidden state."""
    turns: "TurnScores | None" = None
    """Of each learned turn, by a method that takes no gradient of a sample."""


@dataclass(frozen=True)
class TurnScores:
    """Results for the learned turns of a batch's samples, sample by sample, on the CPU."""

    utility: Tensor
    """(U,) float64: over all anchors, in the unit of the samples'."""
    loss: Tensor
    """(U,) float64: the turn's own mean loss, in nats."""
    counts: Tensor
    """(B,) int64: turns of each sample, as its tokens tell them apart."""


class Scorer(ABC):
    """One method with one proxy, one anchor set and one setting of `score`. The proxy is left bit by bit as it was.

    A new scorer has computed nothing: call `prepare` before `rows`. Both raise ModelError where the proxy cannot be
    scored with, before any sample is.
    """

    takes_gradients = False
    """Whether the method keeps the activations of a pool sample's pass, for a backward pass through them."""

    def __init__(
        self,
        proxy: Checkpoint,
        anchors: Sequence[Sample],
        settings: Score,
        arithmetic: Arithmetic = "fp32",
        execution: Execution | None = None,
        held: Arithmetic | None = None,
    ):
        """`held`: how weights that do not move are held, where not as the arithmetic has it; fp32 makes no copy."""
        self.anchors, self.settings, self.arithmetic = anchors, settings, arithmetic
        self.autocast = arithmetic
        """The arithmetic that passes ask torch for; fp32, which is none, where all weights are in bf16 themselves."""
        self.execution = execution or Execution()
        own = untied(proxy, settings.layers)
        self.weights = scored_weights(own.model, settings.layers)
        self.proxy = dataclasses.replace(own, model=lowered(own.model, self.weights, held or arithmetic))
        self.factors = self.preconditioner()
        self.partition = partition_of(anchors, settings)
        self.device = self.proxy.model.device
        self.without_gradients = batches_for(self.proxy, self.execution)
        self.loader = self.without_gradients.loader
        self.with_gradients = Batches(self.loader, self.device, budget_for(self.proxy, self.execution, gradients=True))
        self.answer_losses = AnswerLosses()
        self.notes: tuple[str, ...] = ()
        """What a person should know of how it computes."""

    @property
    def batches(self) -> Batches:
        """How pool samples are put into batches."""
        return self.with_gradients if self.takes_gradients else self.without_gradients

    def preconditioner(self) -> dict[str, Tensor] | None:
        """Factors, one for each weight, that turn a gradient into the optimizer's step; None for plain SGD."""
        return preconditioner(self.proxy, self.weights, self.settings.optimizer)

    @abstractmethod
    def prepare(self, store: Path | None = None) -> None:
        """Compute what all samples need, such as the anchors' gradients. `store`: a file to keep costly results in."""

    def ready(self, store: Path | None = None) -> Self:
        """This scorer, prepared, and compiled where the settings ask for it."""
        self.prepare(store)
        if self.execution.compile == "always":
            self.compile()
        return self

    @torch.no_grad()
    def without_autocast(self, model: PreTrainedModel) -> None:
        """From now on ask torch for nothing: a model that all samples pass is wholly in bf16.

        A family that computes some part of a pass in fp32 by itself may need autocast all the same, and keeps it.
        """
        self.autocast = "fp32"
        try:
            self.losses(self.encode(self.anchors[:1]), model)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # torch's for products of two kinds of numbers
            self.autocast = "bf16"

    @torch.no_grad()
    def compile(self) -> None:
        """Compile what pool samples go through, where that is faster and gives the same."""
        models = self.compilable()
        if not models:
            return
        batch = self.encode(self.anchors[:COMPILED])
        if left := compile_blocks(models, lambda: torch.cat([self.losses(batch, model)[0] for model in models])):
            self.notes = (f"the decoder's blocks run as they are, although compute.compile asks for more: {left}",)

    def compilable(self) -> list[PreTrainedModel]:
        """Models that pool samples go through and nobody else uses; none, of a method that hooks into their modules."""
        return []

    @abstractmethod
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """Score the samples of one batch."""

    def rows(self, samples: Sequence[Sample], advance: Callable[[int], None] = lambda done: None) -> pa.Table:
        """A row a sample, in order: `id, task, by_cell, loss, tokens, length`, and `sketch`, `turns` if any.

        `by_cell` holds the D utilities for the cells of `partition`; `turns` is a list with the message's index,
        utility and loss of each learned turn. `advance` is told how many samples are done.
        """
        return next(self.tables([samples], advance))

    def tables(
        self, groups: Iterable[Sequence[Sample]], advance: Callable[[int], None] = lambda done: None
    ) -> Iterator[pa.Table]:
        """The `rows` of each group of samples, none of which is empty; the next is encoded while one is scored."""
        waiting: deque[tuple[Sequence[Sample], list[int]]] = deque()

        def ordered() -> Iterator[list[Sample]]:
            for samples in groups:
                waiting.append((samples, self.order(samples)))
                yield [samples[index] for index in waiting[-1][1]]

        for found in self.batches.stream(ordered(), self.score_batch, advance):
            yield self._table(*waiting.popleft(), found)

    def _table(self, samples: Sequence[Sample], order: Sequence[int], found: Sequence[BatchScores]) -> pa.Table:
        back = np.argsort(order)

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(scores, name).numpy() for scores in found])[back]

        columns = {
            "id": pa.array([sample.id for sample in samples]),
            "task": pa.array([sample.task for sample in samples]),
            "by_cell": lists(column("utility")),
            "loss": pa.array(column("loss")),
            "tokens": pa.array(column("tokens").astype(np.int32)),
            "length": pa.array(column("length").astype(np.int32)),
        }
        if self.settings.sketches:
            columns["sketch"] = lists(column("sketch").astype(np.float16))
        if found and found[0].turns:
            columns["turns"] = _turn_lists([samples[index] for index in order], found).take(pa.array(back))
        return pa.table(columns)

    def order(self, samples: Sequence[Sample]) -> list[int]:
        """Indices of the samples as they are put into batches: by size."""
        return sorted(range(len(samples)), key=lambda index: approximate_tokens(samples[index]))

    def held_out(self, samples: Sequence[Sample] | None = None) -> np.ndarray:
        """Utility (A,) of each anchor for the anchors outside its fold: what trusted samples look like.

        Or of `samples`, one in the place of each anchor. For a scorer whose detail is `folds`.
        """
        return without_own(matrix(self.rows(samples or self.anchors), "by_cell"), self.partition)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """The samples as a training batch on the proxy's device."""
        return to_device(self.loader.encoder.training(samples), self.device)

    def anchor_steps(self) -> dict[str, Tensor]:
        """The step of each cell's mean loss: for each weight a tensor (D, *its shape).

        A step is a gradient, preconditioned. Raises ModelError where that over all anchors is zero or not finite.
        """
        cells, weights = self.partition.members, list(self.weights.values())
        stacks = {name: weight.new_zeros((len(cells), *weight.shape)) for name, weight in self.weights.items()}
        for index, members in enumerate(cells):

            def add(samples: list[Sample], batch: Batch, index: int = index, count: int = len(members)) -> None:
                loss = self.losses(batch)[0].sum() / count
                for stack, part in zip(stacks.values(), gradients(loss, weights), strict=True):
                    stack[index] += part

            self.with_gradients.run(self.some_anchors(members), add)
        length = norm(mean_step(stacks, self.partition.shares))
        if not 0.0 < length < float("inf"):
            raise ModelError(
                f"the anchor gradient has norm {length}: check the proxy's weights and the anchors' answers"
            )
        for name, factor in (self.factors or {}).items():
            stacks[name] *= factor
        return stacks

    def some_anchors(self, members: Sequence[int] | None = None) -> list[Sample]:
        """The anchors with these indices; None for all."""
        return list(self.anchors) if members is None else [self.anchors[member] for member in members]

    def losses(self, batch: Batch, model: PreTrainedModel | None = None) -> tuple[Tensor, Tensor]:
        """Each sample's loss, (B,) float64, and its answer tokens, (B,), by the proxy or a moved copy of it."""
        return self.token_losses(batch, model).by_sample(self.settings.reduction)

    def token_losses(self, batch: Batch, model: PreTrainedModel | None = None) -> TokenLosses:
        """The loss of each answer token, likewise."""
        with computing(self.device, self.autocast):
            return self.answer_losses(model or self.proxy.model, batch)

    def batch_scores(
        self,
        utility: Tensor,
        losses: Tensor,
        tokens: Tensor,
        batch: Batch,
        sketch: Tensor | None = None,
        turns: TurnScores | None = None,
    ) -> BatchScores:
        """The results of a batch, moved to the CPU; a sample without a finite loss has no utility."""
        utility = torch.where(losses.isfinite()[:, None], utility, torch.nan)
        length = batch["attention_mask"].sum(dim=1)
        sketch = None if sketch is None else sketch.cpu()
        return BatchScores(utility.cpu(), losses.cpu(), tokens.cpu(), length.cpu(), sketch, turns)


def _turn_lists(samples: Sequence[Sample], found: Sequence[BatchScores]) -> pa.ListArray:
    """Each sample's turns as a list of `turn, utility, loss`; null where its tokens do not tell as many as it has."""
    counts, utility, loss = (
        np.concatenate([getattr(scores.turns, name).numpy() for scores in found])
        for name in ("counts", "utility", "loss")
    )
    places = [sample.learned for sample in samples]
    told = counts == [len(own) for own in places]
    kept = np.repeat(told, counts)
    turns = np.array([at for own, whole in zip(places, told, strict=True) if whole for at in own], dtype=np.int32)
    values = pa.StructArray.from_arrays([turns, utility[kept], loss[kept]], ["turn", "utility", "loss"])
    offsets = np.concatenate([[0], np.cumsum(np.where(told, counts, 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~told))
