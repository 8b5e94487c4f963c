"""Built-in worlds: problems whose right answers are known, with pools that a faulty teacher answered."""

from ost.worlds import easyvqa, handmath, wordmath
from ost.worlds.world import Problem, Split, World

WORLDS: dict[str, World] = {"handmath": handmath, "easy-vqa": easyvqa, "wordmath": wordmath}

__all__ = ["WORLDS", "Problem", "Split", "World"]
