"""VisNec (Dong et al. 2026, arXiv:2603.01195): what a sample's image takes off its loss.

The visual gain of a sample, there its Visual Necessity Score, is its loss without its images less its loss with them,
by the warm proxy. Where it is high the answer needs the image, near zero the text alone tells it, and below zero the
image misleads. Without its images a sample is the same conversation without its image parts.

The paper chooses the highest within semantic clusters, so that kinds of question for which an image tells little keep
their share. Here clusters are those of `ost.selection.clusters`, by mean hidden states before the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from ost.baselines.changed import Changed
from ost.cost import Cost, Stopwatch
from ost.data import Sample
from ost.encoding import Batch
from ost.errors import DataError
from ost.execution.arithmetic import computing
from ost.execution.batches import batches_for
from ost.execution.forward import forward_flops, losses_of, usual_arithmetic
from ost.execution.losses import AnswerLosses
from ost.models import Checkpoint
from ost.scoring.passes.hidden_states import HiddenStates
from ost.settings import Execution
from ost.types import Progress, silent

COLUMN = "visual_gain"


@dataclass(frozen=True)
class Gains:
    """What images tell of N samples."""

    gain: np.ndarray
    """(N,) float64, in nats; NaN of a sample without an image, or whose loss is not finite."""
    seen: np.ndarray
    """(N,) bool: which samples have images."""
    states: np.ndarray | None
    """(N, k) float32: mean hidden states before the answer; None where none were asked for."""
    cost: Cost

    @property
    def column(self) -> pa.Array:
        """(N,) null where a sample has no image."""
        return pa.array(self.gain, mask=~self.seen)

    @property
    def figures(self) -> dict[str, float]:
        """The mean gain of samples with images, and of how large a share of them it is below zero."""
        known = self.gain[np.isfinite(self.gain)]
        return {COLUMN: float(known.mean()), "misleading": float((known < 0).mean())} if len(known) else {}


def visual_gain(
    pool: Sequence[Sample],
    proxy: Checkpoint,
    execution: Execution | None = None,
    progress: Progress = silent,
    *,
    states: int = 0,
) -> Gains:
    """The gains of a pool, and their cost: a forward pass, and another of the samples with images, without them.

    `states`: most numbers of a hidden state, 0 for none. Raises what `require_images` raises.
    """
    require_images(pool)
    watch = Stopwatch()
    losses, seen, found = _with_images(pool, proxy, execution, progress, states)
    blind = Changed(pool, without_images, np.flatnonzero(seen).tolist())
    gain = np.full(len(losses), np.nan)
    gain[seen] = losses_of(blind, proxy, execution, progress) - losses[seen]
    flops = forward_flops(proxy, pool, execution) * len(pool) + forward_flops(proxy, blind, execution) * len(blind)
    return Gains(gain, seen, found, Cost(watch.seconds, flops))


def require_images(pool: Sequence[Sample]) -> None:
    """Raise DataError for a pool of which no sample has an image."""
    if not any(sample.images for sample in pool):
        raise DataError(
            "no sample of the pool has an image, so there is no visual gain: leave the arm `visual-gain` out, or set "
            "score.visual_gain to false"
        )


def _with_images(
    pool: Sequence[Sample], proxy: Checkpoint, execution: Execution | None, progress: Progress, states: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Losses (N,), which samples have images (N,), and their hidden states (N, k) where any are asked for."""
    answer_losses, batches, hidden = AnswerLosses(), batches_for(proxy, execution), HiddenStates(states)
    arithmetic = usual_arithmetic(proxy, pool[0])

    @torch.no_grad()
    def read(samples: list[Sample], batch: Batch) -> list[tuple]:
        with computing(batches.device, arithmetic), hidden.recorded(proxy.model, batch) as recorded:
            losses = answer_losses(proxy.model, batch).by_sample()[0].tolist()
        means = recorded[0].cpu().numpy() if recorded else [None] * len(samples)
        return list(zip(losses, [bool(sample.images) for sample in samples], means, strict=True))

    rows = batches.run_sorted(pool, read, lambda done: progress(done, len(pool), "losses with images"))
    losses, seen, means = zip(*rows, strict=True)
    return np.array(losses), np.array(seen), np.stack(means) if states else None


def without_images(sample: Sample) -> Sample:
    """The same conversation without its images; a turn that was an image alone is left with an empty text."""
    return Sample((), tuple(map(_told, sample.messages)), sample.task, f"{sample.id} without its images")


def _told(message: dict) -> dict:
    texts = [part for part in message["content"] if part["type"] == "text"]
    return message | {"content": texts or [{"type": "text", "text": ""}]}


def with_visual_gain(
    table: pa.Table,
    pool: Sequence[Sample],
    proxy: Checkpoint,
    execution: Execution | None = None,
    progress: Progress = silent,
) -> tuple[pa.Table, Gains]:
    """A score table of a pool, in the pool's order, with the column `visual_gain`; and what was found.

    Raises what `visual_gain` raises.
    """
    found = visual_gain(pool, proxy, execution, progress)
    return table.append_column(COLUMN, found.column), found
