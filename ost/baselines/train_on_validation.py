"""Train on Validation (Jain, Montanari and Sasoglu, ICLR 2026, arXiv:2510.00386): what a short training changes most.

A model is fine-tuned on the validation set, here the anchors, for a moment, and the training pool is read before and
after. To first order the loss that a sample loses is what the validation set would lose by a step on that sample. There
it is averaged over a few checkpoints of a warm-up on the pool; here it is taken around the one warm proxy that every
other arm has. The neighbour CoLoR-Filter (ost/baselines/reference_models.py) trains to the end of a schedule.

A score is the mean over an answer's tokens of the change of their log-loss. How it is aggregated was not at hand, and
the paper's abstract leaves open which change is meant:
- `reduction`: what the loss falls by, which that first-order argument speaks of.
- `magnitude`: the absolute change of each token's, by "whose predictions change the most" read to the letter. In a pool
  of answers that contradict the anchors it chooses the wrong ones: what the training makes less likely changes most.
"""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ost.cost import Cost, Stopwatch
from ost.data import Sample
from ost.encoding import Batch
from ost.execution.arithmetic import computing
from ost.execution.batches import batches_for
from ost.execution.forward import forward_flops, usual_arithmetic
from ost.execution.losses import AnswerLosses
from ost.models import Checkpoint
from ost.settings import Execution
from ost.training import Recipe, train
from ost.types import Change, Progress, silent


def tov(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    warm: Checkpoint,
    recipe: Recipe,
    change: Change = "reduction",
    *,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[np.ndarray, Cost]:
    """Scores (N,) in nats, higher being better, and the cost; the warm proxy is left as it is.

    Both models read a batch as it is encoded once. Raises TrainingError where there are no anchors, or a loss on them
    is not finite.
    """
    watch, tuned = Stopwatch(), Checkpoint(copy.deepcopy(warm.model), warm.processor)
    trained = train(tuned, anchors, recipe, progress, execution=execution)
    answer_losses, batches = AnswerLosses(), batches_for(warm, execution)
    arithmetic = usual_arithmetic(warm, pool[0])

    @torch.no_grad()
    def changes(_: list[Sample], batch: Batch) -> np.ndarray:
        with computing(batches.device, arithmetic):
            before, after = (answer_losses(one.model, batch) for one in (warm, tuned))
        values = before.values - after.values
        found = dataclasses.replace(before, values=values.abs() if change == "magnitude" else values)
        return found.by_sample()[0].cpu().numpy()

    note = "losses before and after"
    found = np.array(batches.run_sorted(pool, changes, lambda done: progress(done, len(pool), note)))
    passes = (forward_flops(warm, pool) + forward_flops(tuned, pool)) * len(pool)
    return found, Cost(watch.seconds, trained.cost.flops + passes)
