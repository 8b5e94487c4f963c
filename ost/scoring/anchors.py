"""Groups of the anchors, called cells: by them a utility is told for each task, with its standard error."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ost.data import Sample
from ost.settings import Score
from ost.types import Detail


def order_by_content(ids: Sequence[str], purpose: bytes = b"") -> list[int]:
    """Positions of samples in an order that is random, another for each purpose, and that their contents alone give."""

    def draw(at: int) -> bytes:
        return hashlib.blake2b(ids[at].encode(), digest_size=8, key=purpose).digest()

    return sorted(range(len(ids)), key=draw)


@dataclass(frozen=True)
class Partition:
    """A partition of the A anchors into D cells: folds of the tasks, whole tasks, or one cell that holds all."""

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
        """(D,) float64: weight of each cell in a mean over the cells, by the anchors that it holds; they sum to 1."""
        sizes = np.array([1 if self.left_out else len(cell) for cell in self.members], dtype=np.float64)
        return sizes / sizes.sum()

    @property
    def groups(self) -> tuple[str, ...]:
        """The G tasks, sorted; none where cells mix tasks."""
        return tuple(sorted({task for task in self.tasks if task}))


def divide(anchors: Sequence[Sample], detail: Detail, folds: int) -> Partition:
    """Split the anchors into cells. A task with fewer anchors than `folds` has a fold for each of them.

    Anchors are dealt to folds in the order of their ids, so that the order of the file plays no part.
    """
    everyone = range(len(anchors))
    if detail == "total":
        return Partition((tuple(everyone),), ("",), (0,))
    order = sorted(everyone, key=lambda index: (anchors[index].task, anchors[index].id))
    members, tasks, numbers = [], [], []
    for task, own in groupby(order, key=lambda index: anchors[index].task):
        indices = tuple(own)
        count = min(folds, len(indices)) if detail == "folds" else 1
        members += [indices[start::count] for start in range(count)]
        tasks += [task] * count
        numbers += range(count)
    return Partition(tuple(members), tuple(tasks), tuple(numbers))


def partition_of(anchors: Sequence[Sample], settings: Score) -> Partition:
    """The cells that a run resolves its utilities over."""
    if settings.method != "lookahead" or settings.resolution == "total":
        return divide(anchors, settings.resolution, settings.folds)
    folds = folds_of(anchors, settings.folds)
    return Partition(folds, ("",) * len(folds), tuple(range(len(folds))), left_out=len(folds) > 1)


def folds_of(anchors: Sequence[Sample], folds: int) -> tuple[tuple[int, ...], ...]:
    """So many folds of all anchors, or one of each, of like size, each with its part of every task.

    Anchors are dealt in the order of task and id, so the order of the file plays no part.
    """
    order = sorted(range(len(anchors)), key=lambda index: (anchors[index].task, anchors[index].id))
    count = min(folds, len(order))
    return tuple(tuple(order[start::count]) for start in range(count))


def all_but_each(folds: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each fold the anchors of all others; of a single fold its own."""
    if len(folds) == 1:
        return [list(folds[0])]
    return [[at for other in folds if other is not fold for at in other] for fold in folds]


def mean_step(stacks: Mapping[str, Tensor], factors: np.ndarray) -> dict[str, Tensor]:
    """Sum of the D cells' steps, (D, *shape) for each weight, each times its factor: a tensor for each weight."""
    if len(factors) == 1:
        return {name: stack[0] if factors[0] == 1 else stack[0] * factors[0] for name, stack in stacks.items()}
    weights = torch.as_tensor(factors)
    return {name: torch.einsum("d,d...->...", weights.to(stack), stack) for name, stack in stacks.items()}


def norm(step: Mapping[str, Tensor]) -> float:
    """Euclidean length over all weights, accumulated in float64."""
    lengths = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in step.values()]
    return torch.linalg.vector_norm(torch.stack(lengths)).item()
