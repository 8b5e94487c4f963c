"""Reference models: what a model that has fitted the anchors finds easier than one that has not.

Two forerunners of `lookahead` (ost/scoring/methods). That takes few steps, as many as left-out anchors are best
served by, and ranks by the loss that a sample loses as a share of what it had. These train a reference model to the end
of a fixed schedule and rank by the plain difference of two losses in nats, to which long answers that are badly
predicted lend the most.
"""

import copy
from collections.abc import Sequence

import numpy as np

from ost.cost import Cost, Stopwatch
from ost.data import Sample
from ost.execution.forward import forward_flops, losses_of
from ost.models import Checkpoint
from ost.settings import Execution
from ost.training import Recipe, train
from ost.types import Progress, silent


def color(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    prior: Checkpoint,
    recipe: Recipe,
    *,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[np.ndarray, Cost]:
    """CoLoR-Filter (Brandfonbrener et al. 2024, arXiv:2406.10670): scores (N,) in nats, higher being better, and cost.

    Loss under the prior minus loss under the conditional model, which is the prior trained on the anchors; there the
    prior has seen a sample of the pool, here it is the warm proxy. The prior is left as it is. Raises TrainingError
    where there are no anchors, or a loss on them is not finite.
    """
    return _reducible(pool, anchors, prior, prior, recipe, execution, progress)


def rho(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    current: Checkpoint,
    base: Checkpoint,
    recipe: Recipe,
    *,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[np.ndarray, Cost]:
    """RHO-LOSS (Mindermann et al. 2022, arXiv:2206.07137): scores (N,) in nats, higher being better, and cost.

    Loss under the current model minus the irreducible one, under the base trained on the anchors alone: unlike CoLoR's,
    this reference has never seen the pool. The paper chooses within every batch of the training itself, by the model as
    it then is; here once, by the warm proxy. Both checkpoints are left as they are. Raises what `color` raises.
    """
    return _reducible(pool, anchors, current, base, recipe, execution, progress)


def _reducible(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    model: Checkpoint,
    origin: Checkpoint,
    recipe: Recipe,
    execution: Execution | None,
    progress: Progress,
) -> tuple[np.ndarray, Cost]:
    """Loss under the model minus loss under a copy of `origin` trained on the anchors; the cost of all of it."""
    watch = Stopwatch()
    reference = Checkpoint(copy.deepcopy(origin.model), origin.processor)
    trained = train(reference, anchors, recipe, progress)
    before, after = (losses_of(pool, one, execution, progress) for one in (model, reference))
    passes = (forward_flops(model, pool) + forward_flops(reference, pool)) * len(pool)
    return before - after, Cost(watch.seconds, trained.cost.flops + passes)
