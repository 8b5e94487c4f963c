"""Turns: of a kept sample those that are wrong by the scores are masked, so that a training learns the others alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.errors import DataError
from ost.selection.purity import is_clean, p_right
from ost.selection.tables import kept_ids, left_out_too
from ost.settings import Select
from ost.store import read_table

ALL_WRONG = "each of its turns is more likely wrong than right"
LIKELY = 0.5
"""Probability of being right below which a turn is masked: the cut that is wrong about the fewest turns."""


def mask_turns(selection: pa.Table, scores: pa.Table, turns: pa.Table, settings: Select) -> pa.Table:
    """A selection with the column `masked`: of each kept sample the indices of the messages that are not to be learned.

    selection: N rows in the order of `scores`, chosen by rank as ever. turns: a row a learned turn, see `turn_table`.

    A turn is masked that is more likely wrong than right, by `p_turn_right` over the turns of the kept samples alone:
    among those that rank high a low turn is less often wrong than in the whole pool. Where the scores have no `p_clean`
    to tell it from, it is one whose utility is negative, by the definition of utility: what helps with the anchors
    speaks against it. None is masked in a pool that is clean (see `is_clean`), nor in a sample of one turn, whose own
    rank has decided.

    A sample whose turns would all be masked teaches nothing, and is left out for that. None takes its place: a fraction
    counts the samples that rank highest, not what is learned of them, and the next ones rank lower.

    Raises DataError where the turns are not those of the scored samples.
    """
    kept = kept_ids(selection)
    told = {} if is_clean(scores, settings) else _wrong_turns(kept, scores, turns)
    empty = {name: ALL_WRONG for name, (masked, count) in told.items() if len(masked) == count}
    masks = {name: masked for name, (masked, _) in told.items() if name not in empty}
    own = [masks.get(name, []) for name in selection["id"].to_pylist()]
    return left_out_too(selection, empty).append_column("masked", pa.array(own, pa.list_(pa.int32())))


def p_turn_right(scores: pa.Table, turns: pa.Table) -> np.ndarray | None:
    """Probability (U,) that each turn is right; None where the scores have no `p_clean`.

    What ranks samples, `utility_relative` where the scores have it, is known of turns too. It is held against the same
    trusted samples: a turn has the `p_clean` of the highest sample that does not rank above it. From these, over all
    the turns given, the probability follows as that of samples does from theirs (see `p_right`): one less the local
    false-discovery rate. One that is not finite is NaN.
    """
    name = "utility_relative" if {*scores.column_names, *turns.column_names} >= {"utility_relative"} else "utility"
    if "p_clean" not in scores.column_names or name not in turns.column_names:
        return None
    known = scores.filter(pc.and_(pc.is_finite(scores[name]), pc.is_valid(scores["p_clean"]))).sort_by(name)
    if not len(known):
        return None
    values = turns[name].to_numpy()
    places = np.searchsorted(known[name].to_numpy(), values, side="right") - 1
    usable = np.isfinite(values)
    found = np.full(len(values), np.nan)
    found[usable] = p_right(known["p_clean"].to_numpy()[np.maximum(places, 0)][usable])
    return found


def masks_of(selection: pa.Table) -> dict[str, list[int]]:
    """Id → indices of the messages that are not to be learned, of the samples that have such; {} of a selection by
    sample."""
    if "masked" not in selection.column_names:
        return {}
    some = selection.filter(pc.greater(pc.list_value_length(selection["masked"]), 0))
    return dict(zip(some["id"].to_pylist(), some["masked"].to_pylist(), strict=True))


def turns_beside(path: str | Path) -> Path:
    """Where the table of turns stands beside a table of samples: `-turns` before its suffix."""
    path = Path(path)
    return path.with_name(f"{path.stem}-turns{path.suffix}")


def read_turns(scores: str | Path) -> pa.Table:
    """The table of turns beside a score table; raises DataError where there is none."""
    path = turns_beside(scores)
    if not path.is_file():
        raise DataError(
            f"select.unit is turn, and {path} is missing: score with the method lookahead or transposed, which tell "
            "turns apart, or select by sample"
        )
    return read_table(path)


def _wrong_turns(kept: list[str], scores: pa.Table, turns: pa.Table) -> Mapping[str, tuple[list[int], int]]:
    """Id → the turns of a kept sample that are more likely wrong, and how many it has; of those of several turns."""
    if strange := pc.sum(pc.invert(pc.is_in(turns["id"], scores["id"].combine_chunks()))).as_py():
        raise DataError(f"{strange:,} of {len(turns):,} turns are of samples that the scores have not: score anew")
    own = turns.filter(pc.is_in(turns["id"], pa.array(kept, pa.string())))
    right = p_turn_right(scores, own)
    wrong = own["utility"].to_numpy() < 0 if right is None else right < LIKELY
    told = own.select(["id", "turn"]).append_column("wrong", pa.array(wrong))
    found: dict[str, tuple[list[int], int]] = {}
    for name, turn, is_wrong in zip(*(told[column].to_pylist() for column in told.column_names), strict=True):
        masked, count = found.get(name, ([], 0))
        found[name] = ([*masked, turn] if is_wrong else masked), count + 1
    return {name: own for name, own in found.items() if own[1] > 1}
