"""Trials on the check's samples: which arithmetic, and how long a step, ranks them as the reference does.

A short step drowns in rounding, a long one is curved; where the two cross hangs on the model's size and the
arithmetic. So both are found together, on a few of the user's own samples, before the pool is scored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ost.cost import Stopwatch
from ost.scoring.checks import FIDELITY, Reference, agreement
from ost.scoring.kept import kept_json
from ost.settings import Score
from ost.store import write_json
from ost.types import Arithmetic, Progress, silent

STEPS = (1e-3, 1e-2, 1e-1, 1.0)
"""Lengths that are tried for the step of `transposed`, the shortest first: the first to pass is the least curved."""
FASTEST: tuple[Arithmetic, ...] = ("bf16", "mixed", "fp32")


@dataclass(frozen=True)
class Way:
    """One way to compute, and how its ranking agrees with the reference's."""

    arithmetic: Arithmetic
    step: float | None = None
    spearman: float | None = None
    """None where it was not tried: there was no choice, or nothing to hold it against."""


@dataclass(frozen=True)
class Settled:
    """The way that is taken, and those that were tried."""

    taken: Way
    tried: tuple[Way, ...] = ()
    earlier: float = 0.0
    """Seconds that an earlier run tried them for, where they were taken over from it."""

    def to_json(self) -> dict:
        """The ways as plain values."""
        return {"taken": asdict(self.taken), "tried": [asdict(way) for way in self.tried]}


def settle(
    settings: Score,
    on_accelerator: bool,
    reference: Reference | None,
    utility: Callable[[Way], np.ndarray],
    progress: Progress = silent,
    store: Path | None = None,
) -> Settled:
    """The fastest way that ranks the reference's samples as it does; where none does, the one that comes closest.

    `utility` computes their utilities in a way. Without a reference the first of the slowest arithmetic is taken.
    `store`: a file that the result is kept in; what it holds counts where the settings allow it.
    """
    ways = list(_ways(settings, on_accelerator))
    if reference is None or len(ways) == 1:
        slowest = [way for way in ways if way.arithmetic == ways[-1].arithmetic]
        return Settled(slowest[0])
    known = _known(store)
    if known and Way(known.taken.arithmetic, known.taken.step) in ways:
        return known
    watch, tried = Stopwatch(), list[Way]()
    for number, way in enumerate(ways):
        tried.append(Way(way.arithmetic, way.step, _tried(way, reference, utility)))
        progress(number + 1, len(ways), f"trying {way.arithmetic}" + (f", step {way.step:g}" if way.step else ""))
        if tried[-1].spearman >= FIDELITY:
            break
    found = Settled(max(tried, key=lambda one: one.spearman), tuple(tried))
    if store:
        write_json(store, found.to_json() | {"earlier": watch.seconds})
    return found


def _known(store: Path | None) -> Settled | None:
    """What an earlier run has settled."""
    known = kept_json(store)
    if known is None:
        return None
    return Settled(Way(**known["taken"]), tuple(Way(**one) for one in known["tried"]), known["earlier"])


def _ways(settings: Score, on_accelerator: bool) -> Iterator[Way]:
    every = FASTEST if on_accelerator else ("fp32",)
    arithmetics: Sequence[Arithmetic] = every if settings.precision == "auto" else (settings.precision,)
    steps = STEPS if settings.method == "transposed" and settings.step is None else (settings.step,)
    for arithmetic in arithmetics:
        for step in steps:
            yield Way(arithmetic, step)


def _tried(way: Way, reference: Reference, utility: Callable[[Way], np.ndarray]) -> float:
    """Rank correlation with the reference; -1 where a model, or the method, cannot compute in this way at all."""
    try:
        found = agreement(utility(way), reference.utility).spearman
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # torch's for an operator that is not there in this arithmetic
        return -1.0
    return found if np.isfinite(found) else -1.0
