"""The kept samples of a pool, in the pool's order: what is known of them, their turns, and they themselves."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.data import Dataset, Sample
from ost.errors import DataError
from ost.selection import kept_ids

FACTS = ("id", "task", "tokens", "sizes", "own_id", "file", "position")
"""Columns of a pool that are held for all its samples, about 150 bytes each."""
AT_ONCE = 32
"""Samples that are in memory together."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sample, and what the pool tells of it."""

    sample: Sample
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image."""
    own_id: str | None
    """The user's own id as JSON text."""

    @property
    def told(self) -> dict[str, Any]:
        """What a JSON record holds beside its conversation: the user's own id, or ours without one, and the task."""
        own = self.sample.id if self.own_id is None else json.loads(self.own_id)
        return {"id": own} | ({"task": self.sample.task} if self.sample.task else {})


class Kept:
    """What a selection keeps of a pool. Raises DataError where the two do not belong together."""

    def __init__(self, selection: pa.Table, pool: Dataset):
        self.pool = pool
        ids = pa.array(kept_ids(selection), pa.string())
        facts = _facts(pool)
        ranks = pc.index_in(facts["id"].combine_chunks(), ids)
        facts = facts.append_column("rank", pc.add(ranks, pa.scalar(1, pa.int32())))
        self._chosen = pc.is_valid(ranks)
        self.facts = facts.filter(self._chosen)
        """A row a sample, in the pool's order: FACTS and `rank`."""
        if not len(ids):
            raise DataError("the selection keeps no sample: nothing is there to export")
        if (lost := len(ids) - len(self.facts)) > 0:
            raise DataError(
                f"{lost:,} of {len(ids):,} kept samples are not in {pool.path}: the selection was made from another "
                "pool, or before the pool changed; select anew"
            )

    def __len__(self) -> int:
        return len(self.facts)

    def without(self, ids: set[str]) -> "Kept":
        """All but the samples of these ids."""
        return self._with(self.facts.filter(pc.invert(pc.is_in(self.facts["id"], pa.array(ids, pa.string())))))

    def led_by(self, name: str) -> "Kept":
        """The same, with the sample of this id in front."""
        place = pc.index(self.facts["id"], name).as_py()
        parts = [self.facts.slice(place, 1), self.facts.slice(0, place), self.facts.slice(place + 1)]
        return self._with(pa.concat_tables(parts))

    def turns(self) -> Iterator[tuple[str, list[dict]]]:
        """Id and messages of each that was chosen, in the pool's order; no image is read."""
        start = 0
        for table in self.pool.batches(("id", "messages")):
            for row in table.filter(self._chosen.slice(start, len(table))).to_pylist():
                yield row["id"], row["messages"]
            start += len(table)

    @property
    def longest(self) -> int:
        """Tokens of the longest sample by the target's own processor."""
        return pc.max(self.facts["tokens"]).as_py()

    @property
    def pixels(self) -> np.ndarray:
        """Of each sample's largest image, 0 without one."""
        sizes = self.facts["sizes"].combine_chunks()
        width, height = (pc.struct_field(sizes.flatten(), name).to_numpy() for name in ("width", "height"))
        largest = np.zeros(len(sizes), dtype=np.int64)
        np.maximum.at(largest, pc.list_parent_indices(sizes).to_numpy(), width.astype(np.int64) * height)
        return largest

    def _with(self, facts: pa.Table) -> "Kept":
        other = copy.copy(self)
        other.facts = facts
        return other

    def rows(self) -> Iterator[Row]:
        """The samples with their images, in order."""
        samples = self.pool.subset(self.facts["id"].to_pylist())
        facts = self.facts.select(["sizes", "own_id"])
        for start in range(0, len(samples), AT_ONCE):
            known = facts.slice(start, AT_ONCE).to_pylist()
            for sample, row in zip(samples[start : start + AT_ONCE], known, strict=True):
                yield Row(sample, tuple((size["width"], size["height"]) for size in row["sizes"]), row["own_id"])


def _facts(pool: Dataset) -> pa.Table:
    try:
        facts = pool.table(FACTS)
    except (KeyError, pa.ArrowInvalid):
        facts = None
    if facts is None or set(facts.column_names) != set(FACTS):
        raise DataError(f"{pool.path} does not tell where its samples come from; give the pool that `ost` ingested")
    return facts.select(list(FACTS))
