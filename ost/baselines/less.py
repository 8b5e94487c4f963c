"""LESS (Xia et al. 2024, arXiv:2402.04333): samples whose Adam step points where the anchors' gradient points.

Of a proxy whose LoRA adapter was warmed up with Adam, the feature of a pool sample is the update that Adam would make
of its gradient (section 2 there), the feature of an anchor its plain gradient; both are projected at random. A sample's
score is its largest cosine with a task's mean feature over the anchors (section 4). One checkpoint is used, the one
that the warm-up ends with, as every other arm has one proxy.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ost.cost import BACKWARD, Cost, Stopwatch
from ost.data import Sample
from ost.encoding import Batch
from ost.execution.batches import WINDOW
from ost.execution.forward import forward_flops
from ost.models import Checkpoint
from ost.scoring.gradients.hooks import GradientHooks
from ost.scoring.gradients.layers import LayerGradient
from ost.scoring.gradients.sketch import Sketcher
from ost.scoring.methods.scorer import BatchScores, Scorer
from ost.settings import Execution, Score
from ost.store import matrix
from ost.training import Moments
from ost.types import Progress, silent

EPSILON = 1e-8
"""Adam's."""

Update = Callable[[str, Tensor], Tensor]
"""A weight's name and its B gradients, (B, o, i) → what is projected of them."""


def less(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    proxy: Checkpoint,
    moments: Moments,
    *,
    dimensions: int = 4096,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[np.ndarray, Cost]:
    """Scores (N,), higher being better, and the cost, from a proxy with a warmed-up adapter and its Adam state.

    The anchors are held, the pool is not. `dimensions`: numbers of a projected gradient, a square (the paper: 8,192).
    Raises ModelError where the proxy cannot be scored with.
    """
    watch, passes = Stopwatch(), (len(pool) + len(anchors)) * (1 + BACKWARD)
    settings = Score(method="gradient", detail="groups", optimizer="sgd", sketch=0, checks=0)
    scorer, found = _LessScorer(proxy, list(anchors), settings, moments, Sketcher(dimensions), execution), []
    scorer.prepare()
    note = "gradient features"
    for start in range(0, len(pool), WINDOW):
        own = pool[start : start + WINDOW]
        rows = scorer.rows(own, lambda done, start=start: progress(start + done, len(pool), note))
        found.append(matrix(rows, "by_cell").max(axis=1))
    return np.concatenate(found), Cost(watch.seconds, forward_flops(proxy, pool) * passes)


class _LessScorer(Scorer):
    """Cosines of each sample's projected Adam update with the projected mean gradient of each task's anchors."""

    takes_gradients = True

    def __init__(self, proxy, anchors, settings: Score, moments: Moments, sketcher: Sketcher, execution):
        super().__init__(proxy, anchors, settings, execution=execution)
        self._moments, self._sketcher = moments, sketcher

    def prepare(self, store: Path | None = None) -> None:
        """The feature of each task, (D, d), of length one."""
        self._hooks = GradientHooks(self.proxy.model, self.weights)
        tasks = []
        for members in self.partition.members:
            own = self.batches.run(self.some_anchors(members), self._plain_features)
            tasks.append(torch.cat(own).mean(dim=0))
        self._tasks = torch.nn.functional.normalize(torch.stack(tasks).double(), dim=1)

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """One forward and one backward pass."""
        features, losses, tokens = self._features(samples, batch, self._adam)
        cosines = torch.nn.functional.normalize(features.double(), dim=1) @ self._tasks.T
        return self.batch_scores(cosines, losses, tokens, batch)

    def _plain_features(self, samples: Sequence[Sample], batch: Batch) -> Tensor:
        """Projected gradients (B, d)."""
        return self._features(samples, batch, _gradient)[0]

    def _features(self, samples: Sequence[Sample], batch: Batch, update: Update) -> tuple[Tensor, Tensor, Tensor]:
        """Projected updates (B, d), losses (B,) and answer tokens (B,)."""
        parts: list[Tensor] = []

        def report(name: str, gradient: LayerGradient) -> None:
            parts.append(self._sketcher.project(name, update(name, gradient.dense())))

        with self._hooks.collecting(samples, batch, report):
            losses, tokens = self.losses(batch)
            losses.sum().backward()
        return torch.stack(parts).sum(dim=0), losses.detach(), tokens

    def _adam(self, name: str, gradients: Tensor) -> Tensor:
        """The step that Adam would take on each sample alone, from where the warm-up left its state."""
        (beta1, beta2), after = self._moments.betas, self._moments.steps + 1
        first = torch.lerp(self._moments.first[name], gradients, 1 - beta1) / (1 - beta1**after)
        second = torch.lerp(self._moments.second[name], gradients.square(), 1 - beta2) / (1 - beta2**after)
        return first / (second.sqrt() + EPSILON)


def _gradient(name: str, gradients: Tensor) -> Tensor:
    return gradients
