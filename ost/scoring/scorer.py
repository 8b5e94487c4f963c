"""What the scoring methods share: prepared once from the anchors, then called with any samples, in any batches."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from ost.config import Score
from ost.data import Sample
from ost.encoding import Batch, Encoder, to_device
from ost.errors import ModelError
from ost.models import Checkpoint
from ost.scoring.anchors import cells_of, mean_step, norm
from ost.scoring.losses import gradients, sample_losses
from ost.scoring.statistics import without_own
from ost.scoring.weights import preconditioner, scored_weights, untied


@dataclass(frozen=True)
class Chunk:
    """Results for B samples, on the CPU."""

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

    Raises ModelError where the proxy cannot be scored with, before any sample is.
    """

    largest_batch: int | None = None
    """Samples that the method can take at once; None for any number."""

    def __init__(self, proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, bf16: bool = False):
        self.proxy, self.anchors, self.settings, self.bf16 = untied(proxy, settings.layers), anchors, settings, bf16
        self.encoder = Encoder(proxy.processor)
        self.weights = scored_weights(self.proxy.model, settings.layers)
        self.factors = self.preconditioner()
        self.cells = cells_of(anchors, settings)
        self._size = min(settings.batch_size, self.largest_batch or settings.batch_size)
        self.prepare()

    def preconditioner(self) -> dict[str, Tensor] | None:
        """What multiplies a gradient to make a step of it; None for one."""
        return preconditioner(self.proxy, self.weights, self.settings.optimizer)

    @abstractmethod
    def prepare(self) -> None:
        """Do what is done once, such as the anchors' gradients."""

    @abstractmethod
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        """Score the samples of one batch."""

    def score(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], Chunk]]:
        """Score samples in batches of like size; yields the indices that a chunk's rows belong to, then the chunk.

        A batch that does not fit into an accelerator's memory is halved, and so are all that follow; no sample is cut.
        """
        order = self.order(samples)
        start = 0
        while start < len(order):
            indices = order[start : start + self._size]
            own = [samples[index] for index in indices]
            try:
                chunk = self.score_batch(own, self.encode(own))
            except torch.OutOfMemoryError:
                if len(indices) == 1:
                    raise
                self._size = len(indices) // 2
                continue
            start += len(indices)
            yield indices, chunk

    def order(self, samples: Sequence[Sample]) -> list[int]:
        """Indices of the samples as they are put into batches: by size."""
        return sorted(range(len(samples)), key=lambda index: bulk(samples[index]))

    def held_out(self) -> np.ndarray:
        """Utility (A,) of each anchor for the anchors outside its fold: what trusted samples look like.

        For a scorer whose detail is `folds`.
        """
        by_cell = np.empty((len(self.anchors), len(self.cells.members)))
        for indices, chunk in self.score(self.anchors):
            by_cell[indices] = chunk.utility.numpy()
        return without_own(by_cell, self.cells)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """The samples as a training batch on the proxy's device."""
        return to_device(self.encoder.training(samples), self.proxy.model.device)

    def anchor_steps(self, model: PreTrainedModel | None = None) -> dict[str, Tensor]:
        """The step of each cell's mean loss, by the proxy or a copy of it: for each weight a tensor (D, *its shape).

        A step is a gradient, preconditioned. Raises ModelError where that over all anchors is zero or not finite.
        """
        weights = scored_weights(model, self.settings.layers) if model else self.weights
        stacks = {name: weight.new_zeros((len(self.cells.members), *weight.shape)) for name, weight in weights.items()}
        for index, members in enumerate(self.cells.members):
            for own in self.anchor_batches(members):
                loss = self.losses(self.encode(own), model)[0].sum() / len(members)
                for stack, part in zip(stacks.values(), gradients(loss, list(weights.values())), strict=True):
                    stack[index] += part
        length = norm(mean_step(stacks, self.cells.shares))
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

    def chunk(
        self, utility: Tensor, losses: Tensor, tokens: Tensor, batch: Batch, sketch: Tensor | None = None
    ) -> Chunk:
        """The results of a batch, moved to the CPU; a sample without a finite loss has no utility."""
        utility = torch.where(losses.isfinite()[:, None], utility, torch.nan)
        length = batch["attention_mask"].sum(dim=1)
        return Chunk(utility.cpu(), losses.cpu(), tokens.cpu(), length.cpu(), None if sketch is None else sketch.cpu())


def bulk(sample: Sample) -> float:
    """About how many tokens a sample has: a token for 4 characters, and for each 28 × 28 pixels."""
    pixels = sum(width * height for width, height in (_size_of(image) for image in sample.images))
    return len(sample.question) / 4 + len(sample.answer) / 4 + pixels / 784


def _size_of(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size  # reads the header alone
