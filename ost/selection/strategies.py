"""How a subset is chosen from a score table: each strategy returns the kept ids, best first, and why not the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from ost.errors import DataError
from ost.selection.cover import cover as cover_by
from ost.store import matrix
from ost.types import Ranking, Strategy

BELOW = "utility below the cut"
QUOTA = "utility below the cut of its task"
OUTVOTED = "mean rank over the anchors' tasks below the cut"
COVERED = "its gradient is like those of kept samples"
BREADTH = 3
"""`cover` chooses among this many times as many samples as it keeps, if so many have a positive utility."""


@dataclass(frozen=True)
class Choice:
    """What a strategy keeps."""

    kept: list[str]
    """Ids, the best first."""
    reason: str
    """Why the others are left out."""
    exceptions: dict[str, str] = field(default_factory=dict)
    """Ids that are left out for another reason."""


def top(scores: pa.Table, size: int, by: Ranking) -> Choice:
    """The best by rank."""
    return Choice(_ranked(scores, by)["id"].to_pylist()[:size], BELOW)


def quota(scores: pa.Table, size: int, by: Ranking) -> Choice:
    """The best of each task, as many as its share of the pool, rounded by largest remainder."""
    ranked = _ranked(scores, by)
    ids, tasks = np.array(ranked["id"].to_pylist()), np.array(ranked["task"].to_pylist())
    names, counts = np.unique(np.array(scores["task"].to_pylist()), return_counts=True)
    places = {task: np.flatnonzero(tasks == task) for task in names}
    kept = np.concatenate([places[task][:n] for task, n in zip(names, _divide(size, counts), strict=True)])
    rest = np.setdiff1d(np.arange(len(ids)), kept)[: max(0, min(size, len(ids)) - len(kept))]  # a task ran short
    return Choice(ids[np.sort(np.concatenate([kept, rest]))].tolist(), QUOTA)


def vote(scores: pa.Table, size: int, by: Ranking) -> Choice:
    """The best by their mean rank over the anchors' tasks: each task has one vote, however large its gradients are.

    Raises DataError where the scores have no utility by task.
    """
    ranked = _ranked(scores, by)
    groups = [name for name in scores.column_names if name.startswith("utility/")]
    if not groups:
        raise DataError(
            "the strategy `vote` needs a utility for each of the anchors' tasks: score with method gradient or exact, "
            "or set score.detail to groups"
        )
    cost = ranked["length"].to_numpy() if by == "utility_per_token" else 1.0
    ranks = np.mean([rankdata(ranked[name].to_numpy() / cost) for name in groups], axis=0)
    order = np.argsort(-ranks, kind="stable")
    return Choice(ranked["id"].take(order).to_pylist()[:size], OUTVOTED)


def cover(scores: pa.Table, size: int, by: Ranking) -> Choice:
    """Of the best 3 × `size`, those whose gradients stand for all of theirs; see `ost.selection.cover`.

    None has a negative utility while others last. Raises DataError where the scores have no gradient sketches.
    """
    if "sketch" not in scores.column_names:
        raise DataError(
            "the strategy `cover` needs gradient sketches: set score.method to gradient and score.sketch to 256"
        )
    ranked = _ranked(scores, by)
    helpful = pc.sum(pc.greater(ranked["utility"], 0)).as_py() or 0
    best = ranked.slice(0, max(size, min(BREADTH * size, helpful)))
    if not len(best):  # an empty column has no width to read
        return Choice([], BELOW)
    chosen = cover_by(matrix(best, "sketch").astype(np.float32), size)
    ids = best["id"].to_pylist()
    kept = [ids[index] for index in chosen]
    return Choice(kept, BELOW, dict.fromkeys(ids, COVERED))


STRATEGIES: dict[Strategy, Callable[[pa.Table, int, Ranking], Choice]] = {
    "top": top,
    "quota": quota,
    "vote": vote,
    "cover": cover,
}


def _ranked(scores: pa.Table, by: Ranking) -> pa.Table:
    """The samples that are not quarantined, the best first; ties by id, so that the pool's order plays no part."""
    if by not in scores.column_names:
        raise DataError(f"the scores have no column `{by}` to rank by; they have {', '.join(scores.column_names)}")
    order = scores.sort_by([(by, "descending"), ("id", "ascending")])
    return order.filter(pc.is_finite(order["utility"]))


def _divide(size: int, counts: np.ndarray) -> np.ndarray:
    """`size` places in proportion to counts, by largest remainder."""
    places, remainders = np.divmod(size * counts, counts.sum())  # whole numbers: equal remainders are equal
    places[np.argsort(-remainders, kind="stable")[: size - places.sum()]] += 1
    return places
