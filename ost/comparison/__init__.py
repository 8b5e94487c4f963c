"""Comparison: the arms, how each of them chooses, and what their results say together."""

from ost.comparison.arms import ARMS, RATINGS, SCORES, Arm, Rating, Subset, Trial, plan
from ost.comparison.summary import break_even, mean_interval, summarise

__all__ = [
    "ARMS",
    "RATINGS",
    "SCORES",
    "Arm",
    "Rating",
    "Subset",
    "Trial",
    "break_even",
    "mean_interval",
    "plan",
    "summarise",
]
