"""The states of samples by which scoring tells their questions apart, of samples that are not scored: the anchors."""

from collections.abc import Sequence

import numpy as np
import torch

from ost.data import Sample
from ost.encoding import Batch
from ost.execution.arithmetic import computing
from ost.execution.batches import batches_for
from ost.execution.forward import usual_arithmetic
from ost.execution.losses import AnswerLosses
from ost.models import Checkpoint
from ost.scoring.passes.hidden_states import HiddenStates
from ost.settings import Execution


@torch.no_grad()
def states_of(
    samples: Sequence[Sample], proxy: Checkpoint, size: int, execution: Execution | None = None
) -> np.ndarray:
    """Mean hidden state of each sample before its answer, (A, at most `size`) float16, one forward pass each.

    As the column `sketch` of scores by `lookahead` with `score.sketch` = `size` has it, but for rounding.
    """
    states, losses, batches = HiddenStates(size), AnswerLosses(), batches_for(proxy, execution)
    arithmetic = usual_arithmetic(proxy, samples[0])

    def passed(_: list[Sample], batch: Batch) -> list[np.ndarray]:
        with computing(batches.device, arithmetic), states.recorded(proxy.model, batch) as found:
            losses(proxy.model, batch)
        return list(found[0].half().cpu().numpy())

    return np.stack(batches.run_sorted(samples, passed))
