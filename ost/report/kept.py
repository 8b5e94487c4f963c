"""What the arms keep, ready for the page: how much of it is right, how broad it is, and its mix of tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ost.arms import arm_of
from ost.audit.breadth import Breadth

COLOURS = ("ost", "random", "wide", "violet", "sky", "wrong")
"""Of the tasks in the bars; those beyond are one part, in the colour REST."""
REST = "base"


@dataclass(frozen=True)
class Kind:
    """A part of the bars: a task, or all that are too small for a part of their own."""

    name: str
    colour: str
    pool: float
    kept: Mapping[str, float]
    """Label of an arm → share of what it keeps."""

    @property
    def subsets(self) -> dict[str, float]:
        """`kept` without the arm that keeps the whole pool."""
        return {label: share for label, share in self.kept.items() if label != arm_of("full").label}


def kept_labels(purity: Mapping[str, float | None], breadth: Mapping[str, Breadth], order: Sequence[str]) -> list[str]:
    """Labels of the subsets of which something is known, by their place in `order`; others come last."""
    known = [*(label for label, share in purity.items() if share is not None), *breadth]
    return list(dict.fromkeys([*(label for label in order if label in known), *known]))


def kinds_of(breadth: Mapping[str, Breadth]) -> list[Kind]:
    """The tasks that hold the largest shares, by name, and the rest as one; none where all is one task."""
    most: dict[str, float] = {}
    for one in breadth.values():
        for task, shares in one.mix.items():
            most[task] = max(most.get(task, 0.0), *shares)
    if len(most) < 2:
        return []
    order = sorted(most, key=lambda task: (-most[task], task))
    large, rest = sorted(order[: len(COLOURS)]), order[len(COLOURS) :]
    kinds = [_kind(task or "unnamed", colour, [task], breadth) for task, colour in zip(large, COLOURS, strict=False)]
    return [*kinds, _kind(f"{len(rest)} more", REST, rest, breadth)] if rest else kinds


def _kind(name: str, colour: str, tasks: Sequence[str], breadth: Mapping[str, Breadth]) -> Kind:
    kept, pool = (
        {label: sum(one.mix[task][side] for task in tasks if task in one.mix) for label, one in breadth.items()}
        for side in (0, 1)
    )
    return Kind(name, colour, next(iter(pool.values())), kept)
