"""Samples and copies of checkpoints, for the tests of the library."""

import copy

import torch

from ost.data import Sample, chat
from ost.models import Checkpoint
from ost.worlds import handmath
from ost.worlds.world import Split


def copy_of(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A checkpoint with weights of its own, in any precision."""
    return Checkpoint(copy.deepcopy(checkpoint.model).to(dtype), checkpoint.processor)


def drawn(split: Split, count: int, seed: int = 0) -> list[Sample]:
    """Rightly answered samples of the built-in world."""
    return [handmath.to_sample(problem) for problem in handmath.draw(split, count, seed)]


def other_forms() -> list[Sample]:
    """Several turns, no image, two images, a long answer."""
    one, two = (handmath.to_sample(problem) for problem in handmath.draw("pool", 2, 1))
    turns = (*one.messages, *chat("And the larger one?", "max 3 , 4 = 4", images=0))
    return [
        Sample(one.images, turns, "maximum"),
        Sample((), chat("What is 3 + 4?", "3 + 4 = 7", images=0), "sum"),
        Sample((*one.images, *two.images), chat("What is the sum of all digits?", "20", images=2), "sum"),
        Sample(two.images, chat("Explain!", "First read the digits, then add them; it is what it is."), "sum"),
    ]
