"""Subsets chosen by utility, with a rank for each kept sample and a reason for each left out."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from ost.selection.purity import harmless, is_clean, pure_size
from ost.selection.signal import may_claim, signal_of
from ost.selection.strategies import Choice, ranked_by, strategy_of
from ost.selection.tables import NOT_DRAWN, selection_table, shuffled, size_of
from ost.selection.turns import mask_turns
from ost.settings import Select, parse_section
from ost.types import Ranking

USUAL = Select()
"""Defaults of the call are those of the settings."""

TOXIC = "toxic: training on it raises the anchor loss"
BLIND = "these scores cannot tell right from wrong (see the warning given with them): nothing is said of harm or purity"
QUARANTINED = "quarantined: its loss is not finite"


def select(
    scores: pa.Table,
    fraction: float | None = 0.2,
    strategy: str = USUAL.strategy,
    by: Ranking = USUAL.by,
    clean_below: float = USUAL.clean_below,
    seed: int = 0,
    among: float | None = USUAL.among,
    purity: float = USUAL.purity,
    turns: pa.Table | None = None,
) -> pa.Table:
    """The `fraction` of the N scored samples that a strategy chooses, as a table `id, rank, reason` in pool order.

    What is not named is as `ost select` has it: for breadth, among the best (`cover`), of scores that have sketches.
    Quarantined samples are never kept, nor are toxic ones unless the scores cannot tell (see `Signal`): where too few
    others are left, the subset is smaller. `draw`, `spread` and `cover` choose among the best: a share `among` of the
    pool, or, without one, as many as an expected share `purity` is right of; `expected_purity` of the table tells what
    that comes to. From a pool that is clean (see `is_clean`) the subset is drawn at random. Raises ConfigError for an
    unknown strategy or ranking, or a share outside (0, 1], and DataError where the scores lack what the strategy needs.
    Without a fraction (None), as many as are expected to be `purity` right are kept.

    With `turns`, the table of turns that scoring gave (`Scored.turns`), the selection has the column `masked`: of each
    kept sample the indices of the messages that are wrong by the scores, and not to be learned; see `mask_turns`.
    """
    told = {"strategy": strategy, "by": by, "clean_below": clean_below, "among": among, "purity": purity}
    settings = parse_section(Select, told, "the selection")
    selection = by_utility(scores, fraction, settings, seed)
    return selection if turns is None else mask_turns(selection, scores, turns, settings)


def warnings_of(
    scores: pa.Table, settings: Select, fraction: float | None = None, *, in_full: bool = False
) -> list[str]:
    """What a person should know of a selection: that the scores cannot tell, that the pool shows no harm, or that fewer
    samples are left to keep than a fraction asks for.

    `in_full`: why the scores cannot tell, and what to do, as well; whoever made them has said so already.
    """
    clean, claim = is_clean(scores, settings), may_claim(scores)
    blind = [] if claim else signal_of(scores).warnings if in_full else [BLIND]
    warnings = [*blind, *_shortage(scores, fraction)]
    if not clean:
        return warnings
    toxic = pc.sum(scores["toxic"].cast(pa.int64())).as_py()
    few = (
        f"{toxic:,} of {len(scores):,} samples are toxic, a smaller share than select.clean_below "
        f"({settings.clean_below:.1%}): "
    )
    if not claim:
        return [*warnings, f"{few}by scores that cannot tell this says nothing, so the subset is drawn at random"]
    return [f"{few}the pool shows no harm, so the subset is drawn at random; training on all of it may well be best"]


def _shortage(scores: pa.Table, fraction: float | None) -> list[str]:
    """That fewer samples are kept than asked for, where that is so."""
    asked = 0 if fraction is None else size_of(scores, fraction)
    left = len(_usable(harmless(scores)))
    if left >= asked:
        return []
    return [
        f"{asked:,} of {len(scores):,} samples are asked for, and {left:,} are kept: all others are toxic, or have a "
        "loss that is not finite"
    ]


def by_utility(
    scores: pa.Table, fraction: float | None, settings: Select, seed: int, strategy: str | None = None
) -> pa.Table:
    """`select` as the settings say, or with another strategy."""
    how = strategy_of(strategy or settings.strategy)
    size = pure_size(ranked_by(scores, settings.by), settings.purity) if fraction is None else size_of(scores, fraction)
    if is_clean(scores, settings):
        choice = Choice(shuffled(_usable(harmless(scores)), seed)[:size], NOT_DRAWN)
    else:
        choice = how.choose(scores, size, settings, seed)
    toxic = dict.fromkeys(scores.filter(scores["toxic"])["id"].to_pylist(), TOXIC) if may_claim(scores) else {}
    return _table(scores, replace(choice, exceptions={**choice.exceptions, **toxic}))


def toxic_list(scores: pa.Table) -> pa.Table:
    """The samples that do harm, most harmful first: `id, utility, loss, task`."""
    return scores.filter(scores["toxic"]).sort_by("utility").select(["id", "utility", "loss", "task"])


def _usable(scores: pa.Table) -> list[str]:
    return scores.filter(pc.is_finite(scores["utility"]))["id"].to_pylist()


def _table(scores: pa.Table, choice: Choice) -> pa.Table:
    """The selection table of scored samples; what is quarantined is left out for that."""
    broken = scores.filter(pc.invert(pc.is_finite(scores["utility"])))["id"].to_pylist()
    others = {**choice.exceptions, **dict.fromkeys(broken, QUARANTINED)}
    return selection_table(scores["id"].to_pylist(), choice.kept, choice.reason, others, choice.purity)
