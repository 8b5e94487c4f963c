"""Low loss: the proxy's own loss on each sample, the filter by perplexity that many pools are cleaned with."""

from collections.abc import Sequence

import numpy as np

from ost.cost import Cost, Stopwatch
from ost.data import Sample
from ost.execution.forward import forward_flops, losses_of
from ost.models import Checkpoint
from ost.settings import Execution
from ost.types import Progress, silent


def low_loss(
    pool: Sequence[Sample], proxy: Checkpoint, execution: Execution | None = None, progress: Progress = silent
) -> tuple[np.ndarray, Cost]:
    """Minus the mean answer loss (N,) of each sample, in nats, higher being better; and its cost, one forward pass."""
    watch = Stopwatch()
    found = losses_of(pool, proxy, execution, progress)
    return -found, Cost(watch.seconds, forward_flops(proxy, pool) * len(pool))
