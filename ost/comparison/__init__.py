"""Comparison: the arms, how each of them chooses, and what their results say together."""

from ost.comparison.arms import ARMS, RATINGS, SCORES, Arm, Rating, Subset, Trial, plan
from ost.comparison.summary import break_even, summarise

__all__ = ["ARMS", "RATINGS", "SCORES", "Arm", "Rating", "Subset", "Trial", "break_even", "plan", "summarise"]
