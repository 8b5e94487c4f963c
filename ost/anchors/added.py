"""Anchors that were added to those of the workspace's own source: one table, which only grows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ost.anchors.sheet import question_of, told
from ost.data import Dataset, Sample, write_samples
from ost.errors import DataError


@dataclass(frozen=True)
class Added:
    """What became of the answers."""

    new: int
    known: int
    """Answers that were there already."""
    total: int
    """Anchors in the table now."""


def add_anchors(samples: Sequence[Sample], table: Path, anchors: Iterable[Sample] = ()) -> Added:
    """Add answered samples to the table of added anchors, which is made where there is none; whole or not at all.

    `anchors`: those that the workspace has besides. A sample that is an anchor already is left out. Raises DataError,
    and adds nothing, where one asks what an anchor asks and answers something else.
    """
    there = list(Dataset(table)) if table.exists() else []
    ids = {anchor.id for anchor in there}
    said = {question_of(anchor).id: anchor.answer for anchor in [*anchors, *there]}
    new, refused = [], []
    for sample in samples:
        asking = question_of(sample).id
        if sample.id in ids or said.get(asking) == sample.answer:
            continue
        if asking in said:
            refused.append(f"{sample.question[-80:]!r}: {sample.answer!r}, and an anchor says {said[asking]!r}")
        new.append(sample)
        said[asking] = sample.answer
    if refused:
        title = f"nothing is added, for {len(refused)} question(s) have an anchor with another answer"
        raise DataError(told(refused, title))
    if new:
        write_samples(table, [*there, *new])
    return Added(len(new), len(samples) - len(new), len(there) + len(new))
