"""Selection: from scores to the samples that are kept, each of the others with a reason."""

from ost.selection.by_utility import by_utility, clean_warnings, is_clean, select, toxic_list
from ost.selection.diversity import diverse
from ost.selection.strategies import STRATEGIES
from ost.selection.tables import KEPT, NOT_DRAWN, expected_purity, kept_ids, selection_table, shuffled, size_of

__all__ = [
    "KEPT",
    "NOT_DRAWN",
    "STRATEGIES",
    "by_utility",
    "clean_warnings",
    "diverse",
    "expected_purity",
    "is_clean",
    "kept_ids",
    "select",
    "selection_table",
    "shuffled",
    "size_of",
    "toxic_list",
]
