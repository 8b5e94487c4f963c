"""The table of what was kept out, and why."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ost.formats import Reason
from ost.store import publish

SetName = Literal["pool", "anchors", "benchmark"]

_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("own_id", pa.string()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


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


def write_quarantine(path: str | Path, quarantine: Iterable[Quarantined]) -> Path:
    """Publish the entries as a Parquet table with a row a record."""
    table = pa.Table.from_pylist([asdict(entry) for entry in quarantine], schema=_SCHEMA)
    with publish(path) as part:
        pq.write_table(table, part)
    return Path(path)
