"""Comparison: what the trainings of one seed or many say together, and what proves a gain."""

from ost.comparison.summary import break_even, entries_of, summarise

__all__ = ["break_even", "entries_of", "summarise"]
