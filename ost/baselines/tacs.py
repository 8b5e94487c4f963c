"""TACS (Yang, He and Cheng 2026, arXiv:2605.09404): the share of its loss that a sample loses along the anchors' path.

The base proxy, which never saw the pool, is trained on the target's own samples (there a validation set, here the
anchors) by a LoRA adapter of rank 1, too small to learn them by heart. A candidate's score is its normalised endpoint
loss drop (L_1 − L_T) / L_1. How far the path goes, T, is told by three folds of the target set: where the path of the
others points most to what helps the fold left out, and least to what helps samples of any kind.

Of the paper its abstract, and a summary of its rules, were at hand, not its code. So these are settled here:
- L_1 is the loss before the path's first step, that of the base proxy; there it is that of the first checkpoint.
- A step takes all anchors, by Adam at a fixed rate, and a step is a checkpoint; T is from 1 to `most_steps`.
- The path's direction at depth t is θ_t − θ_0, over the adapter's weights, and the gradients, of the fold left out and
  of the generic samples, are taken at θ_t, downhill: T is where cos(θ_t − θ_0, −∇L_fold) −
  cos(θ_t − θ_0, −∇L_generic), the mean over the folds, is highest.
- The generic samples are as many of the pool as there are anchors, random by their content.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ost.cost import Cost, Stopwatch
from ost.data import Sample, Samples
from ost.encoding import Batch
from ost.errors import TrainingError
from ost.execution.arithmetic import computing
from ost.execution.batches import batches_for
from ost.execution.forward import forward_flops, usual_arithmetic
from ost.execution.losses import AnswerLosses, gradients
from ost.models import Checkpoint
from ost.scoring.anchors import all_but_each, folds_of
from ost.scoring.checks import choose
from ost.settings import Execution
from ost.types import Progress, silent

RANK = 1
"""Of the adapter."""
FOLDS = 3
"""Parts of the anchors, of which each in turn is left out to see how far to go."""

Encoded = list[tuple[int, Batch]]
"""Batches on the proxy's device, each with the number of its samples."""


@dataclass(frozen=True)
class Drops:
    """What a path on the anchors tells of N samples."""

    scores: np.ndarray
    """(N,) float64: (L_1 − L_T) / L_1; 0 of a sample without a loss to lose, NaN where a loss is not finite."""
    depth: int
    """T, in steps."""
    selectivity: tuple[float, ...]
    """(most_steps,) the mean difference of cosines after 1, 2, … steps; its highest is at T."""
    cost: Cost


def tacs(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    proxy: Checkpoint,
    *,
    most_steps: int,
    learning_rate: float,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> Drops:
    """Scores of a pool, higher being better, from a base proxy with a fresh adapter of RANK, which stays fresh.

    The anchors are held, the pool is not. With fewer anchors than FOLDS a fold is one of them; a single one is its own
    judge. Raises TrainingError where there are no anchors, or a loss on them is not finite.
    """
    if not anchors:
        raise TrainingError("there are no anchors, so there is no path to walk")
    watch, walk = Stopwatch(), _Walk(proxy, anchors[0], learning_rate, execution)
    ids = pool.ids() if isinstance(pool, Samples) else [sample.id for sample in pool]
    selectivity = _selectivity(walk, anchors, [pool[at] for at in choose(ids, len(anchors))], most_steps, progress)
    depth = 1 + int(np.argmax(selectivity))
    for _, _ in zip(range(depth), walk.steps(walk.encoded(anchors)), strict=False):
        pass
    scores = walk.drops(pool, progress)
    a_pass = forward_flops(proxy, pool)
    flops = a_pass * 2 * len(pool) + forward_flops(proxy, anchors) * walk.moved * walk.passes
    return Drops(scores, depth, tuple(selectivity.tolist()), Cost(watch.seconds, flops))


def _selectivity(
    walk: "_Walk", anchors: Sequence[Sample], generic: Sequence[Sample], most_steps: int, progress: Progress
) -> np.ndarray:
    """(most_steps,) mean over the folds; see the head of this file."""
    folds, found = folds_of(anchors, FOLDS), []
    anything = walk.encoded(generic)
    for own, others in zip(folds, all_but_each(folds), strict=True):
        left_out = walk.encoded([anchors[at] for at in own])
        path = walk.steps(walk.encoded([anchors[at] for at in others]))
        for _, direction in zip(range(most_steps), path, strict=False):
            cosines = [
                nn.functional.cosine_similarity(direction, -walk.gradient(samples), dim=0).item()
                for samples in (left_out, anything)
            ]
            found.append(cosines[0] - cosines[1])
            progress(len(found), len(folds) * most_steps, "walking on the anchors, a fold left out")
    return np.array(found).reshape(len(folds), most_steps).mean(axis=0)


class _Walk:
    """Trains a proxy's adapter from its start, as often as asked, and reads losses at the start and where it stands."""

    def __init__(self, proxy: Checkpoint, sample: Sample, learning_rate: float, execution: Execution | None):
        self._model, self._rate = proxy.model, learning_rate
        self._weights = [weight for weight in proxy.model.parameters() if weight.requires_grad]
        self._start = [weight.detach().clone() for weight in self._weights]
        self._answer_losses, self._arithmetic = AnswerLosses(), usual_arithmetic(proxy, sample)
        self._with_gradients = batches_for(proxy, execution, gradients=True)
        self._without = batches_for(proxy, execution)
        self.passes = 0
        """Samples that a gradient was taken of."""
        self.moved = 2 + sum(map(torch.numel, self._weights)) / proxy.model.num_parameters()
        """What a forward and a backward pass cost, in forward passes."""

    def encoded(self, samples: Sequence[Sample]) -> Encoded:
        """Samples in batches whose gradient fits the memory, as taking it once has shown."""

        def fitted(own: list[Sample], batch: Batch) -> tuple[int, Batch]:
            self._part(batch, 1.0)
            return len(own), batch

        self.passes += len(samples)
        return self._with_gradients.run(samples, fitted)

    def gradient(self, encoded: Encoded) -> Tensor:
        """Gradient (P,) of the samples' mean loss by all P weights, float64."""
        count = sum(size for size, _ in encoded)
        self.passes += count
        parts = [self._part(batch, 1 / count) for _, batch in encoded]
        return torch.stack(parts).sum(dim=0)

    def steps(self, encoded: Encoded) -> Iterator[Tensor]:
        """From the start, by Adam on the samples' mean loss: θ_t − θ_0, (P,) float64, after each step; without end."""
        self._load(self._start)
        optimizer = torch.optim.Adam(self._weights, lr=self._rate)
        while True:
            gradient = self.gradient(encoded)
            if not gradient.isfinite().all():
                raise TrainingError(
                    "the gradient of the anchors' loss is not finite: set a smaller warmup.learning_rate, or look for "
                    "anchors that the proxy has no finite loss on"
                )
            sizes = [weight.numel() for weight in self._weights]
            for weight, own in zip(self._weights, gradient.split(sizes), strict=True):
                weight.grad = own.view_as(weight).to(weight.dtype)
            optimizer.step()
            optimizer.zero_grad()
            yield torch.cat([(now.detach() - then).double().flatten() for now, then in self._pairs])

    def drops(self, pool: Sequence[Sample], progress: Progress) -> np.ndarray:
        """(N,) share of its loss that each sample loses between the start and where the walk stands; back to the start.

        In fp32 on any device: along a short path some lose less than bf16 rounds.
        """
        ends = self._start, [weight.detach().clone() for weight in self._weights]

        @torch.no_grad()
        def both(_: list[Sample], batch: Batch) -> np.ndarray:
            losses = []
            for weights in ends:
                self._load(weights)
                losses.append(self._answer_losses(self._model, batch).by_sample()[0])
            return torch.stack(losses, dim=1).cpu().numpy()

        note = "losses at both ends of the path"
        found = np.array(self._without.run_sorted(pool, both, lambda done: progress(done, len(pool), note)))
        self._load(self._start)
        before, after = found.T
        return np.divide(before - after, before, out=np.zeros(len(found)), where=before != 0)

    @property
    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self._weights, self._start, strict=True)

    @torch.no_grad()
    def _load(self, weights: Sequence[Tensor]) -> None:
        for own, other in zip(self._weights, weights, strict=True):
            own.copy_(other)

    def _part(self, batch: Batch, share: float) -> Tensor:
        """Gradient (P,), float64, of the batch's summed losses times a share."""
        with computing(self._with_gradients.device, self._arithmetic):
            losses, _ = self._answer_losses(self._model, batch).by_sample()
        parts = gradients(losses.sum() * share, self._weights)
        return torch.cat([part.detach().double().flatten() for part in parts])
