"""Selection: from scores to the subset that each arm trains on."""

from ost.selection.arms import (
    ARMS,
    QUARANTINED,
    TOXIC,
    Arm,
    arm_label,
    by_utility,
    clean_warnings,
    draw,
    fraction_of,
    is_clean,
    select,
    select_arm,
    toxic_list,
)
from ost.selection.diversity import diverse
from ost.selection.strategies import STRATEGIES
from ost.selection.tables import KEPT, NOT_DRAWN, expected_purity, kept_ids, selection_table, shuffled, size_of

__all__ = [
    "ARMS",
    "KEPT",
    "NOT_DRAWN",
    "QUARANTINED",
    "STRATEGIES",
    "TOXIC",
    "Arm",
    "arm_label",
    "by_utility",
    "clean_warnings",
    "diverse",
    "draw",
    "expected_purity",
    "fraction_of",
    "is_clean",
    "kept_ids",
    "select",
    "select_arm",
    "selection_table",
    "shuffled",
    "size_of",
    "toxic_list",
]
