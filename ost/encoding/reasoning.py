"""Reasoning that a model writes before its answer, and the marks around it."""

THOUGHT = ("<think>", "</think>")
"""The marks that most models write; see `Template.before_answers` for what one model's own template has."""


def without_reasoning(text: str, mark: str = THOUGHT[1]) -> str:
    """What stands behind the last mark that ends reasoning; all of a text without one."""
    return text.rpartition(mark)[2] if mark else text
