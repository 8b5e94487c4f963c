"""What was taken from a source: how many records, what was counted of them, and which were kept out, and why."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa

from ost.data import Sample
from ost.data.sample import context_turns
from ost.formats import Reason
from ost.ingestion.gate import Verdict
from ost.store import write_table

SetName = Literal["pool", "anchors", "benchmark"]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that was read and kept out."""

    source: SetName
    file: str
    """File of the source that it stands in; empty for what could not be brought here."""
    position: int
    """Its place among the file's records, from 0; blank JSONL lines are no records, a broken file is one."""
    own_id: str | None
    """The user's own id as JSON text, where it has one."""
    id: str
    """Content digest, empty where the record never became a sample."""
    reason: Reason
    detail: str


@dataclass(kw_only=True)
class Counts:
    """Sums over the records of a source, or of a part of one."""

    unread_columns: Counter = field(default_factory=Counter)
    """Columns that were not read, and in how many records they stand."""
    absent_columns: Counter = field(default_factory=Counter)
    """Columns that data.columns names, and how many records have them not."""
    learned_turns: int = 0
    context_turns: int = 0
    """Turns of the assistant that are context alone."""
    shrinkable: int = 0
    """Of those that are too long, how many would not be if their images took fewer tokens."""

    def count(self, verdict: Verdict) -> None:
        """Add a record, whether it is kept or not."""
        self.unread_columns.update(verdict.unread)
        self.absent_columns.update(verdict.absent)
        self.shrinkable += verdict.shrinkable

    def count_turns(self, sample: Sample) -> None:
        """Add the turns of a record that is kept."""
        self.learned_turns += len(sample.learned)
        self.context_turns += context_turns(sample)

    def merge(self, other: "Counts") -> None:
        """Add what was counted of another part."""
        self.unread_columns.update(other.unread_columns)
        self.absent_columns.update(other.absent_columns)
        self.learned_turns += other.learned_turns
        self.context_turns += other.context_turns
        self.shrinkable += other.shrinkable


@dataclass(kw_only=True)
class Taken(Counts):
    """What was taken from one source."""

    folder: Path
    read: int = 0
    kept: int = 0
    quarantine: list[Quarantined] = field(default_factory=list)
    tasks: set[str] = field(default_factory=set)
    unread_files: Sequence[str] = ()
    beside: set[Path] = field(default_factory=set)
    """Files and folders beside the source, or in the folders named for it, that its images were read from."""

    @property
    def counts(self) -> dict:
        """`{"read", "kept", "quarantined", "reasons": {reason: count}}`; read = kept + quarantined."""
        reasons = Counter(record.reason for record in self.quarantine)
        return {"read": self.read, "kept": self.kept, "quarantined": reasons.total(), "reasons": dict(reasons)}


def write_quarantine(path: str | Path, quarantine: Iterable[Quarantined]) -> Path:
    """Publish the records as a Parquet table with a row for each."""
    schema = pa.schema(
        [(column.name, pa.int64() if column.type is int else pa.string()) for column in fields(Quarantined)]
    )
    write_table(path, pa.Table.from_pylist([asdict(record) for record in quarantine], schema=schema))
    return Path(path)
