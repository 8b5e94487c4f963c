"""Anchors that the others contradict: by the proxy trained on the others their answer is as unlikely as a wrong one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ost.data import Sample

WRONG = 0.25
"""Share of the known wrong answers that a contradicted one is at least as unlikely as. With 10 of 100 anchors of
handmath made wrong, twice, 11 of the 20 are named and 2 others; with none made wrong, none is."""
FEWEST = 8
"""Known wrong answers from which on a task has a measure of its own: losses of long answers and short ones differ."""

SHOWN, LONGEST = 3, 80
"""Doubtful anchors that a warning shows, and characters of their questions and answers."""


@dataclass(frozen=True)
class Doubtful:
    """An anchor that a person should look at."""

    id: str
    loss: float
    """Of its answer by the proxy trained on anchors outside its fold, in nats."""
    wrong: float
    """The least loss, likewise, that counts as a wrong answer's."""


def doubt_words(doubts: Sequence[Doubtful], anchors: Iterable[Sample]) -> list[str]:
    """What a person should know of doubtful anchors, in one warning that shows the first few; nothing without any."""
    if not doubts:
        return []
    known = {anchor.id: anchor for anchor in anchors}
    shown = [known[doubt.id] for doubt in doubts[:SHOWN]]
    told = "; ".join(f"{one.id[:8]}, {one.question[-LONGEST:]!r} → {one.answer[:LONGEST]!r}" for one in shown)
    more = f"; and {len(doubts) - SHOWN} more, in the report" if len(doubts) > SHOWN else ""
    return [
        f"{len(doubts)} of {len(known)} anchors are contradicted by the others, and may be wrong (by the proxy trained "
        f"on those their answers are as unlikely as wrong ones): {told}{more}; correct them, or leave them out"
    ]


def contradicted(anchors: pa.Table) -> list[Doubtful]:
    """The doubtful ones of A anchors, the most doubtful first, from the table that scoring leaves of them.

    Read are `id`, `task`, `left_out` and `swapped` (see `anchor_table`). Wrong answers are known without any truth:
    each anchor's question with another's answer. An anchor is contradicted where its own answer, held out, has no lower
    loss than the least unlikely WRONG share of them, of its task where that has FEWEST. None where nothing was left
    out; none of a task of which half the answers are as unlikely: there the proxy knows nothing to contradict by.
    """
    if "left_out" not in anchors.column_names:
        return []
    own, tasks = anchors["left_out"].to_numpy(), anchors["task"].to_numpy()
    wrong = anchors["swapped"].to_numpy(zero_copy_only=False).astype(float)
    limits = np.full(len(own), _limit(own, wrong))
    for task in np.unique(tasks):
        of_task = tasks == task
        if np.isfinite(wrong[of_task]).sum() >= FEWEST:
            limits[of_task] = _limit(own[of_task], wrong[of_task])
    ids = anchors["id"].to_pylist()
    found = [Doubtful(ids[at], float(own[at]), float(limits[at])) for at in np.flatnonzero(own >= limits)]
    return sorted(found, key=lambda one: (one.wrong - one.loss, one.id))


def _limit(own: np.ndarray, wrong: np.ndarray) -> float:
    """The least loss that counts as a wrong answer's; infinite where nothing can be told."""
    wrong = wrong[np.isfinite(wrong)]
    if len(wrong) < FEWEST:
        return np.inf
    limit = float(np.quantile(wrong, WRONG))
    return limit if np.median(own) < limit else np.inf
