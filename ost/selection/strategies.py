"""How a subset is chosen from a score table: each strategy returns the kept ids, best first, and why not the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from ost.errors import ConfigError, DataError
from ost.selection.cover import cover as cover_by
from ost.selection.purity import harmless, p_right_of, part_of
from ost.selection.spread import spread as spread_by
from ost.selection.tables import NOT_DRAWN, shuffled
from ost.settings import Select
from ost.store import matrix
from ost.types import Ranking

BELOW = "utility below the cut"
QUOTA = "utility below the cut of its task"
OUTVOTED = "mean rank over the anchors' tasks below the cut"
REPEATED = "it is like a kept sample of a higher rank"
COVERED = "kept samples stand for it"


@dataclass(frozen=True)
class Choice:
    """What a strategy keeps; nothing toxic is ever among it."""

    kept: list[str]
    """Ids, the best first."""
    reason: str
    """Why the others are left out."""
    exceptions: dict[str, str] = field(default_factory=dict)
    """Ids that are left out for another reason."""
    purity: float | None = None
    """Expected share of right samples in the part that it is chosen from, where the scores tell (see `part_of`)."""


def top(scores: pa.Table, size: int, settings: Select, seed: int) -> Choice:
    """The best by rank."""
    return Choice(harmless(ranked_by(scores, settings.by))["id"].to_pylist()[:size], BELOW)


def quota(scores: pa.Table, size: int, settings: Select, seed: int) -> Choice:
    """The best of each task, as many as its share of the pool, rounded by largest remainder."""
    ranked = harmless(ranked_by(scores, settings.by))
    ids, tasks = np.array(ranked["id"].to_pylist()), np.array(ranked["task"].to_pylist())
    names, counts = np.unique(np.array(scores["task"].to_pylist()), return_counts=True)
    places = {task: np.flatnonzero(tasks == task) for task in names}
    kept = np.concatenate([places[task][:n] for task, n in zip(names, divide(size, counts), strict=True)])
    rest = np.setdiff1d(np.arange(len(ids)), kept)[: max(0, min(size, len(ids)) - len(kept))]  # a task ran short
    return Choice(ids[np.sort(np.concatenate([kept, rest]))].tolist(), QUOTA)


def vote(scores: pa.Table, size: int, settings: Select, seed: int) -> Choice:
    """The best by their mean rank over the anchors' tasks: each task has one vote, however large its gradients are.

    Raises DataError where the scores have no utility by task.
    """
    ranked = harmless(ranked_by(scores, settings.by))
    groups = [name for name in scores.column_names if name.startswith("utility/")]
    if not groups:
        raise DataError(
            "the strategy `vote` needs a utility for each of the anchors' tasks: score by one step, with "
            "method gradient or exact"
        )
    cost = ranked["length"].to_numpy() if settings.by == "utility_per_token" else 1.0
    ranks = np.mean([rankdata(ranked[name].to_numpy() / cost) for name in groups], axis=0)
    order = np.argsort(-ranks, kind="stable")
    return Choice(ranked["id"].take(order).to_pylist()[:size], OUTVOTED)


def draw(scores: pa.Table, size: int, settings: Select, seed: int) -> Choice:
    """A uniform draw from the part that is likely right: the mix of what is right there, whatever ranks highest."""
    part, purity = _part(scores, size, settings)
    ids = part["id"].to_pylist()
    drawn = set(shuffled(ids, seed)[:size])
    return Choice([name for name in ids if name in drawn], BELOW, dict.fromkeys(ids, NOT_DRAWN), purity)


def spread(scores: pa.Table, size: int, settings: Select, seed: int) -> Choice:
    """The best of the part that are not near-duplicates of better ones; see `ost.selection.spread`.

    Raises DataError where the scores have no sketches.
    """
    part, purity = _part(scores, size, settings)
    ids, (kept, _) = part["id"].to_pylist(), spread_by(_sketches(scores, part, "spread"), size)
    passed = dict.fromkeys(ids[: max(kept, default=0)], REPEATED)
    return Choice([ids[index] for index in kept], BELOW, passed, purity)


def cover(scores: pa.Table, size: int, settings: Select, seed: int) -> Choice:
    """Of the part, those that stand for all of it and are likely right; see `ost.selection.cover`.

    Raises DataError where the scores have no sketches.
    """
    part, purity = _part(scores, size, settings)
    ids, sketches = part["id"].to_pylist(), _sketches(scores, part, "cover")
    kept = cover_by(sketches, size, part["p_right"].to_numpy() if "p_right" in part.column_names else None)
    return Choice([ids[index] for index in kept], BELOW, dict.fromkeys(ids, COVERED), purity)


@dataclass(frozen=True)
class Strategy:
    """One way to choose from a score table."""

    choose: Callable[[pa.Table, int, Select, int], Choice]
    """Scores, size, settings and seed → what is kept."""
    how: str
    """What a person calls it, behind an arm's name."""
    by_task: bool = False
    """Whether it needs utilities by task, which `lookahead` has not."""


STRATEGIES: dict[str, Strategy] = {
    "top": Strategy(top, "by rank"),
    "quota": Strategy(quota, "by quota"),
    "vote": Strategy(vote, "by vote", by_task=True),
    "draw": Strategy(draw, "drawn"),
    "spread": Strategy(spread, "by spread"),
    "cover": Strategy(cover, "for breadth"),
}
"""`select.strategy`, and the ends of arms' names, such as `lookahead-top`."""


def strategy_of(name: str) -> Strategy:
    """The strategy of a name; raises ConfigError for none."""
    if name not in STRATEGIES:
        raise ConfigError(f"no strategy named {name!r}; known: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def ranking_of(scores: pa.Table, by: Ranking) -> Ranking:
    """The column that ranks these scores."""
    if by != "auto":
        return by
    return "utility_relative" if "utility_relative" in scores.column_names else "utility"


def ranked_by(scores: pa.Table, by: Ranking) -> pa.Table:
    """The samples that are not quarantined, the best first; ties by id, so that the pool's order plays no part.

    Their sketches are left out, and the column `row` tells where they are.
    """
    known, by = scores.column_names, ranking_of(scores, by)
    if by not in known:
        raise DataError(f"the scores have no column `{by}` to rank by; they have {', '.join(known)}")
    light = scores.select([name for name in known if name != "sketch"]).append_column(
        "row", pa.array(np.arange(len(scores)))
    )
    order = light.sort_by([(by, "descending"), ("id", "ascending")])
    return order.filter(pc.is_finite(order["utility"]))


def _part(scores: pa.Table, size: int, settings: Select) -> tuple[pa.Table, float | None]:
    """The ranked samples that a subset of this size is chosen among, none of them toxic, and the expected share of
    right ones.

    The column `p_right` tells how likely each is right, where the scores do.
    """
    ranked = ranked_by(scores, settings.by)
    count, purity = part_of(ranked, size, len(scores), settings)
    right = p_right_of(ranked)
    known = ranked if right is None else ranked.append_column("p_right", pa.array(right))
    return harmless(known).slice(0, count), purity


def _sketches(scores: pa.Table, part: pa.Table, strategy: str) -> np.ndarray:
    """Sketches (n, k) of ranked samples, float16."""
    found = scores.select(["sketch"]).take(part["row"]) if "sketch" in scores.column_names else None
    if found is None or found["sketch"].null_count:
        raise DataError(
            f"the strategy `{strategy}` compares samples by their sketches, which these scores lack: score again with "
            "`score.sketch: 256`"
        )
    return matrix(found, "sketch") if len(found) else np.empty((0, 1), np.float16)  # an empty column tells no width


def divide(size: int, counts: np.ndarray) -> np.ndarray:
    """`size` places in proportion to counts, by largest remainder."""
    places, remainders = np.divmod(size * counts, counts.sum())  # whole numbers: equal remainders are equal
    places[np.argsort(-remainders, kind="stable")[: size - places.sum()]] += 1
    return places
