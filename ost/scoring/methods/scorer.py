"""The base class of the scoring methods: prepared once from the anchors, then called with any samples."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from ost.data import Sample
from ost.encoding import Batch, Encoder, to_device
from ost.errors import ModelError
from ost.models import Checkpoint
from ost.scoring.anchors import mean_step, norm, partition_of
from ost.scoring.passes.losses import gradients, sample_losses
from ost.scoring.passes.weights import preconditioner, scored_weights, untied
from ost.scoring.statistics import without_own
from ost.settings import Score
from ost.store import lists, matrix


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


class Scorer(ABC):
    """One method with one proxy, one anchor set and one setting of `score`. The proxy is left bit by bit as it was.

    A new scorer has computed nothing: call `prepare` before `rows`. Both raise ModelError where the proxy cannot be
    scored with, before any sample is.
    """

    largest_batch: int | None = None
    """Samples that the method can take at once; None for any number."""

    def __init__(self, proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, bf16: bool = False):
        self.proxy, self.anchors, self.settings, self.bf16 = untied(proxy, settings.layers), anchors, settings, bf16
        self.encoder = Encoder(proxy.processor)
        self.weights = scored_weights(self.proxy.model, settings.layers)
        self.factors = self.preconditioner()
        self.partition = partition_of(anchors, settings)
        self._size = min(settings.batch_size, self.largest_batch or settings.batch_size)

    def preconditioner(self) -> dict[str, Tensor] | None:
        """Factors, one for each weight, that turn a gradient into the optimizer's step; None for plain SGD."""
        return preconditioner(self.proxy, self.weights, self.settings.optimizer)

    @abstractmethod
    def prepare(self, store: Path | None = None) -> None:
        """Compute what all samples need, such as the anchors' gradients. `store`: a file to keep costly results in."""

    @abstractmethod
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """Score the samples of one batch."""

    def rows(self, samples: Sequence[Sample], advance: Callable[[int], None] = lambda done: None) -> pa.Table:
        """A row a sample, in order: `id, task, by_cell, loss, tokens, length` and, if asked for, `sketch`.

        `by_cell` holds the D utilities for the cells of `partition`. `advance` is told how many samples are done.
        """
        order = self.order(samples)
        found, back = self._halving_batches([samples[index] for index in order], advance), np.argsort(order)

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
        return pa.table(columns)

    def _halving_batches(self, samples: list[Sample], advance: Callable[[int], None]) -> list[BatchScores]:
        """Scores batch by batch; one that runs out of an accelerator's memory is halved, and all that follow.

        No sample is cut: one that alone is too large raises torch's OutOfMemoryError.
        """
        found, done = [], 0
        while done < len(samples):
            own = samples[done : done + self._size]
            try:
                found.append(self.score_batch(own, self.encode(own)))
            except torch.OutOfMemoryError:
                if len(own) == 1:
                    raise
                self._size = len(own) // 2
                continue
            done += len(own)
            advance(done)
        return found

    def order(self, samples: Sequence[Sample]) -> list[int]:
        """Indices of the samples as they are put into batches: by size."""
        return sorted(range(len(samples)), key=lambda index: approximate_tokens(samples[index]))

    def held_out(self) -> np.ndarray:
        """Utility (A,) of each anchor for the anchors outside its fold: what trusted samples look like.

        For a scorer whose detail is `folds`.
        """
        return without_own(matrix(self.rows(self.anchors), "by_cell"), self.partition)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """The samples as a training batch on the proxy's device."""
        return to_device(self.encoder.training(samples), self.proxy.model.device)

    def anchor_steps(self) -> dict[str, Tensor]:
        """The step of each cell's mean loss: for each weight a tensor (D, *its shape).

        A step is a gradient, preconditioned. Raises ModelError where that over all anchors is zero or not finite.
        """
        cells, weights = self.partition.members, list(self.weights.values())
        stacks = {name: weight.new_zeros((len(cells), *weight.shape)) for name, weight in self.weights.items()}
        for index, members in enumerate(cells):
            for own in self.anchor_batches(members):
                loss = self.losses(self.encode(own))[0].sum() / len(members)
                for stack, part in zip(stacks.values(), gradients(loss, weights), strict=True):
                    stack[index] += part
        length = norm(mean_step(stacks, self.partition.shares))
        if not 0.0 < length < float("inf"):
            raise ModelError(
                f"the anchor gradient has norm {length}: check the proxy's weights and the anchors' answers"
            )
        return {name: stack * self.factors[name] for name, stack in stacks.items()} if self.factors else stacks

    def anchor_batches(self, members: Sequence[int] | None = None) -> Iterator[list[Sample]]:
        """The anchors, or some of them, in batches."""
        own = self.anchors if members is None else [self.anchors[member] for member in members]
        for start in range(0, len(own), self.settings.batch_size):
            yield list(own[start : start + self.settings.batch_size])

    def losses(self, batch: Batch, model: PreTrainedModel | None = None) -> tuple[Tensor, Tensor]:
        """Each sample's loss, (B,) float64, and its answer tokens, (B,), by the proxy or a moved copy of it."""
        with torch.autocast(self.proxy.model.device.type, torch.bfloat16, enabled=self.bf16):
            return sample_losses(model or self.proxy.model, batch, self.settings.reduction)

    def batch_scores(
        self, utility: Tensor, losses: Tensor, tokens: Tensor, batch: Batch, sketch: Tensor | None = None
    ) -> BatchScores:
        """The results of a batch, moved to the CPU; a sample without a finite loss has no utility."""
        utility = torch.where(losses.isfinite()[:, None], utility, torch.nan)
        length = batch["attention_mask"].sum(dim=1)
        sketch = None if sketch is None else sketch.cpu()
        return BatchScores(utility.cpu(), losses.cpu(), tokens.cpu(), length.cpu(), sketch)


def approximate_tokens(sample: Sample) -> float:
    """About how many tokens a sample has: a token for 4 characters, and for each 28 × 28 pixels."""
    sizes = [Image.open(io.BytesIO(image)).size for image in sample.images]  # reads the headers alone
    pixels = sum(width * height for width, height in sizes)
    return len(sample.question) / 4 + len(sample.answer) / 4 + pixels / 784
