"""Selection: from scores to the samples that are kept, each of the others with a reason."""

from ost.selection.by_utility import by_utility, select, toxic_list, warnings_of
from ost.selection.diversity import diverse
from ost.selection.purity import is_clean
from ost.selection.strategies import STRATEGIES
from ost.selection.tables import KEPT, NOT_DRAWN, expected_purity, kept_ids, selection_table, shuffled, size_of
from ost.selection.turns import mask_turns, masks_of, read_turns, turns_beside

__all__ = [
    "KEPT",
    "NOT_DRAWN",
    "STRATEGIES",
    "by_utility",
    "diverse",
    "expected_purity",
    "is_clean",
    "kept_ids",
    "mask_turns",
    "masks_of",
    "read_turns",
    "select",
    "selection_table",
    "shuffled",
    "size_of",
    "toxic_list",
    "turns_beside",
    "warnings_of",
]
