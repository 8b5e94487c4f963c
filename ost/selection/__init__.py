"""Selection: from scores to the subset that each arm trains on."""

from ost.selection.arms import (
    ARMS,
    KEPT,
    NOT_DRAWN,
    QUARANTINED,
    TOXIC,
    Arm,
    arm_label,
    draw,
    fraction_of,
    kept_ids,
    select,
    select_arm,
    toxic_list,
)
from ost.selection.strategies import STRATEGIES

__all__ = [
    "ARMS",
    "KEPT",
    "NOT_DRAWN",
    "QUARANTINED",
    "STRATEGIES",
    "TOXIC",
    "Arm",
    "arm_label",
    "draw",
    "fraction_of",
    "kept_ids",
    "select",
    "select_arm",
    "toxic_list",
]
