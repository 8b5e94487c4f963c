"""Anchors with each other's answers: samples that are known to be wrong without any truth about the pool."""

from collections.abc import Sequence

import numpy as np

from ost.data import Sample
from ost.data.sample import text_of


def swapped(anchors: Sequence[Sample]) -> list[Sample]:
    """Each of the A anchors with the last learned answer of another one of its task, in their order.

    The other is the next, in the order of ids and from the last on to the first, that says something else. An anchor
    that has none stays as it is.
    """
    found = list(anchors)
    order = sorted(range(len(found)), key=lambda index: (found[index].task, found[index].id))
    tasks: dict[str, list[int]] = {}
    for index in order:
        tasks.setdefault(found[index].task, []).append(index)
    turns = [anchor.messages[anchor.learned[-1]] for anchor in found]
    said = list(map(text_of, turns))
    for own in tasks.values():
        for place, index in enumerate(own):
            others = (*own[place + 1 :], *own[:place])
            other = next((other for other in others if said[other] != said[index]), None)
            if other is not None:
                found[index] = _answered(found[index], turns[other])
    return found


def are_swapped(anchors: Sequence[Sample]) -> np.ndarray:
    """Which of the A anchors, bool, another answer was found for."""
    return np.array([own.id != other.id for own, other in zip(anchors, swapped(anchors), strict=True)])


def _answered(anchor: Sample, turn: dict) -> Sample:
    at = anchor.learned[-1]
    return Sample(anchor.images, (*anchor.messages[:at], turn, *anchor.messages[at + 1 :]), anchor.task)
