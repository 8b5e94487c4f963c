"""The selected samples of a pool, in the pool's order; and what all of them hold, as far as a form depends on it."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.data import Dataset, Masked, Sample, with_masks
from ost.data.sample import is_learned
from ost.errors import DataError
from ost.selection import kept_ids, masks_of

FACTS = ("id", "task", "tokens", "sizes", "own_id", "file", "position")
"""Columns of a pool that are held for all its samples, about 150 bytes each."""
AT_ONCE = 32
"""Samples that are in memory together."""
MARGIN = 256
"""Tokens by which another template of the same conversation may be longer: a system prompt of its own, role words."""
EARLY = 1 << 20
"""Characters within which what all records hold should be seen; JSON needs six bytes for one at most, of 10 MB."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sample, and what the pool tells of it."""

    sample: Sample
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image."""
    own_id: str | None
    """The user's own id as JSON text."""

    @property
    def named(self) -> dict[str, Any]:
        """What a JSON record holds beside its conversation: the user's own id, or ours without one, and the task."""
        own = self.sample.id if self.own_id is None else json.loads(self.own_id)
        return {"id": own} | ({"task": self.sample.task} if self.sample.task else {})


@dataclass(frozen=True)
class Selected:
    """The samples that a selection keeps of a pool."""

    pool: Dataset
    selection: pa.Table
    """Rows `id, rank, reason`, of the samples that it leaves out as well."""
    chosen: pa.Array
    """Of each sample of the pool, whether it is kept."""
    facts: pa.Table
    """A row a sample, in the order in which they are written: FACTS and `rank`."""
    masks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Id → indices of the messages that the selection masks: they are context alone, as if the pool had them so."""

    @classmethod
    def of(cls, selection: pa.Table, pool: Dataset) -> "Selected":
        """Those of a selection, in the pool's order. Raises DataError where the two do not belong together."""
        ids = pa.array(kept_ids(selection), pa.string())
        try:
            facts = pool.table(FACTS)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{pool.path} does not tell where its samples come from; give the pool that `ost` ingested"
            ) from error
        ranks = pc.index_in(facts["id"].combine_chunks(), ids)
        facts = facts.append_column("rank", pc.add(ranks, pa.scalar(1, pa.int32()))).filter(pc.is_valid(ranks))
        if not len(ids):
            raise DataError("the selection keeps no sample: nothing is there to export")
        if (lost := len(ids) - len(facts)) > 0:
            raise DataError(
                f"{lost:,} of {len(ids):,} kept samples are not in {pool.path}: the selection was made from another "
                "pool, or before the pool changed; select anew"
            )
        return cls(pool, selection, pc.is_valid(ranks), facts, masks_of(selection))

    def __len__(self) -> int:
        return len(self.facts)

    def without(self, ids: Collection[str]) -> "Selected":
        """All but the samples of these ids."""
        given = pc.is_in(self.facts["id"], pa.array(ids, pa.string()))
        return replace(self, facts=self.facts.filter(pc.invert(given)))

    def led_by(self, name: str) -> "Selected":
        """The same, with the sample of this id in front."""
        place = pc.index(self.facts["id"], name).as_py()
        parts = [self.facts.slice(place, 1), self.facts.slice(0, place), self.facts.slice(place + 1)]
        return replace(self, facts=pa.concat_tables(parts))

    def turns(self) -> Iterator[tuple[str, list[dict]]]:
        """Id and messages of each that was chosen, in the pool's order; no image is read."""
        start = 0
        for table in self.pool.batches(("id", "messages")):
            for row in table.filter(self.chosen.slice(start, len(table))).to_pylist():
                yield row["id"], list(with_masks(row["messages"], self.masks.get(row["id"], ())))
            start += len(table)

    def rows(self) -> Iterator[Row]:
        """The samples with their images, in order."""
        samples = Masked(self.pool.subset(self.facts["id"].to_pylist()), self.masks)
        facts = self.facts.select(["sizes", "own_id"])
        for start in range(0, len(samples), AT_ONCE):
            known = facts.slice(start, AT_ONCE).to_pylist()
            for sample, row in zip(samples[start : start + AT_ONCE], known, strict=True):
                yield Row(sample, tuple((size["width"], size["height"]) for size in row["sizes"]), row["own_id"])

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


@dataclass
class Survey:
    """What is known of the samples that will be written, before any is."""

    selected: Selected
    """They themselves."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Of those that the form cannot say: id → why."""
    with_system: int = 0
    """Samples with a system turn."""
    with_reasoning: int = 0
    """Samples with a turn that has reasoning."""
    with_context: int = 0
    """Samples with turns of the assistant that are context alone."""
    learns_last: bool = True
    """Whether the last turn is learned, and no other, in every sample."""

    @cached_property
    def images(self) -> int:
        """How many images they have, each counted as often as it is shown."""
        return pc.sum(pc.list_value_length(self.selected.facts["sizes"])).as_py() or 0

    @property
    def needed(self) -> int:
        """Tokens that suffice for the longest sample in a trainer with a template of its own."""
        return roomy(self.selected.longest)

    @property
    def largest(self) -> int:
        """Pixels of the largest image; 0 without images."""
        return int(self.selected.pixels.max(initial=0))

    @cached_property
    def all_named(self) -> bool:
        """Whether every record had an id of the user's own."""
        return not self.selected.facts["own_id"].null_count

    @cached_property
    def has_tasks(self) -> bool:
        """Whether any sample names its kind of question."""
        return pc.any(pc.not_equal(self.selected.facts["task"], "")).as_py()


def survey(selected: Selected, refusal: Callable[[Sequence[dict]], str | None], guessed: bool) -> Survey:
    """Look at every selected sample's turns once.

    `refusal`: why a trainer could not take them as they are meant. `guessed`: whether it guesses types from the first
    samples; then the first with an image comes before all others, where else it would stand behind much text.
    """
    found = Survey(selected)
    first_image, texts_before = None, 0
    for name, messages in selected.turns():
        if why := refusal(messages):
            found.left_out[name] = why
            continue
        roles = [turn["role"] for turn in messages]
        learned = [at for at, turn in enumerate(messages) if is_learned(turn)]
        if first_image is None:
            parts = [part for turn in messages for part in turn["content"]]
            if any(part["type"] == "image" for part in parts):
                first_image = name
            else:
                texts_before += sum(len(part["text"]) for part in parts)
        found.learns_last &= learned == [len(messages) - 1]
        found.with_system += "system" in roles
        found.with_reasoning += any(turn.get("reasoning_content") for turn in messages)
        found.with_context += len(learned) < roles.count("assistant")
    if found.left_out:
        found.selected = selected.without(list(found.left_out))
    if guessed and first_image and texts_before > EARLY:
        found.selected = found.selected.led_by(first_image)
    return found


def roomy(tokens: int) -> int:
    """A limit in which so many tokens have room by another template as well, a multiple of 256."""
    return -(-(tokens + MARGIN) // 256) * 256
