"""The built-in world: arithmetic on pairs of real handwritten digits, with a pool that a faulty teacher answered."""

from ost.handmath.world import Problem, Split, answer, draw, processor, tasks, to_sample

__all__ = ["Problem", "Split", "answer", "draw", "processor", "tasks", "to_sample"]
