"""The anchors as cells, so that a utility can be told by task, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ost.config import Score
from ost.data import Sample
from ost.types import Detail


@dataclass(frozen=True)
class Cells:
    """A division of the A anchors into D cells: folds of the tasks, whole tasks, or one cell that holds all."""

    members: tuple[tuple[int, ...], ...]
    """Indices of each cell's anchors."""
    tasks: tuple[str, ...]
    """(D,) task of each cell; empty where a cell mixes tasks."""
    folds: tuple[int, ...]
    """(D,) which fold of its task each cell is, from 0."""
    left_out: bool = False
    """Whether a cell's utility is one for all anchors but its own, as `lookahead` has them."""

    @property
    def shares(self) -> np.ndarray:
        """(D,) float64: share of the anchors that each cell holds, alike for cells left out; their sum is 1."""
        sizes = np.array([1 if self.left_out else len(cell) for cell in self.members], dtype=np.float64)
        return sizes / sizes.sum()

    @property
    def groups(self) -> tuple[str, ...]:
        """The G tasks, sorted; none where cells mix tasks."""
        return tuple(sorted({task for task in self.tasks if task}))


def divide(anchors: Sequence[Sample], detail: Detail, folds: int) -> Cells:
    """Cells of the anchors. A task with fewer anchors than `folds` has a fold for each of them.

    Anchors are dealt to folds in the order of their ids, so that the order of the file plays no part.
    """
    everyone = range(len(anchors))
    if detail == "total":
        return Cells((tuple(everyone),), ("",), (0,))
    order = sorted(everyone, key=lambda index: (anchors[index].task, anchors[index].id))
    members, tasks, numbers = [], [], []
    for task, own in groupby(order, key=lambda index: anchors[index].task):
        indices = tuple(own)
        count = min(folds, len(indices)) if detail == "folds" else 1
        members += [indices[start::count] for start in range(count)]
        tasks += [task] * count
        numbers += range(count)
    return Cells(tuple(members), tuple(tasks), tuple(numbers))


def cells_of(anchors: Sequence[Sample], settings: Score) -> Cells:
    """The cells that a run resolves its utilities over."""
    if settings.method != "lookahead" or settings.resolution == "total":
        return divide(anchors, settings.resolution, settings.folds)
    folds = folds_of(anchors, settings.folds)
    return Cells(folds, ("",) * len(folds), tuple(range(len(folds))), left_out=len(folds) > 1)


def folds_of(anchors: Sequence[Sample], folds: int) -> tuple[tuple[int, ...], ...]:
    """At most so many folds of all anchors, each with its part of every task; the order of the file plays no part."""
    cells = divide(anchors, "folds", folds)
    by_number: dict[int, tuple[int, ...]] = {}
    for number, members in zip(cells.folds, cells.members, strict=True):
        by_number[number] = by_number.get(number, ()) + members
    return tuple(by_number[number] for number in sorted(by_number))


def mean_step(stacks: Mapping[str, Tensor], shares: np.ndarray) -> dict[str, Tensor]:
    """The cells' steps, (D, *shape) for each weight, as their mean by share: one step, a tensor for each weight."""
    weights = torch.as_tensor(shares / shares.sum())
    return {name: torch.einsum("d,d...->...", weights.to(stack), stack) for name, stack in stacks.items()}


def norm(step: Mapping[str, Tensor]) -> float:
    """Euclidean length over all weights, accumulated in float64."""
    return torch.stack([part.double().square().sum() for part in step.values()]).sum().sqrt().item()
