"""One plain forward pass over samples: their losses, and what it costs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ost.data import Sample
from ost.encoding import IGNORE, Batch, Encoder, to_device
from ost.execution.arithmetic import computing
from ost.execution.batches import approximate_tokens, batches_for
from ost.execution.loader import Form
from ost.execution.losses import AnswerLosses
from ost.models import Checkpoint
from ost.settings import Execution
from ost.types import Arithmetic, Progress, silent

PROBED = 16
"""Samples that FLOPs are counted on."""


@torch.no_grad()
def losses_of(
    samples: Sequence[Sample], checkpoint: Checkpoint, execution: Execution | None = None, progress: Progress = silent
) -> np.ndarray:
    """Mean answer loss of each sample, (N,) float64 in nats, by a plain forward pass in the `usual_arithmetic`."""
    answer_losses, batches = AnswerLosses(), batches_for(checkpoint, execution)
    arithmetic = usual_arithmetic(checkpoint, samples[0])

    def losses(_: list[Sample], batch: Batch) -> np.ndarray:
        with computing(batches.device, arithmetic):
            return answer_losses(checkpoint.model, batch).by_sample()[0].cpu().numpy()

    return np.array(batches.run_sorted(samples, losses, lambda done: progress(done, len(samples), "losses")))


@torch.no_grad()
def usual_arithmetic(checkpoint: Checkpoint, sample: Sample) -> Arithmetic:
    """What losses are computed in where their last digits play no part: bf16 on an accelerator, else fp32.

    A family of which some operator is not there in bf16, as a pass over the sample tells, computes in fp32 there too.
    """
    device = checkpoint.model.device
    if device.type == "cpu":
        return "fp32"
    batch = to_device(Encoder(checkpoint.processor).training([sample]), device)
    try:
        with computing(device, "bf16"):
            AnswerLosses()(checkpoint.model, batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return "fp32"
    return "bf16"


@torch.no_grad()
def forward_flops(
    checkpoint: Checkpoint, samples: Sequence[Sample], execution: Execution | None = None, form: Form = "training"
) -> float:
    """FLOPs of one forward pass over one sample: the mean over a few, counted operation by operation by torch.

    Counts matrix products, convolutions and attention, as torch's FlopCounterMode does, with the padding of batches of
    like size; by the output head those of answer tokens, or with the form `prompts` of the last token.
    """
    some = sorted(samples[:: max(1, len(samples) // PROBED)][:PROBED], key=approximate_tokens)
    model, answer_losses = checkpoint.model, AnswerLosses()
    arithmetic: Arithmetic = "bf16" if model.dtype == torch.bfloat16 else "fp32"  # of weights held in either, too

    def passed(_: list[Sample], batch: Batch) -> None:
        with computing(model.device, arithmetic):
            if form == "prompts":
                batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
                batch["labels"][:, -1] = 0  # prompts end together, and there the head is asked
            answer_losses(model, batch)

    with FlopCounterMode(display=False) as counter:
        batches_for(checkpoint, execution, form=form).run(some, passed)
    return counter.get_total_flops() / len(some)
