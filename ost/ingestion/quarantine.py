"""Why a record is kept out, and the table that says so."""

import reprlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ost.store import publish

Source = Literal["pool", "anchors", "benchmark"]

Reason = Literal[
    "broken-file",
    "malformed",
    "missing-image",
    "broken-image",
    "image-too-large",
    "image-outside-folder",
    "empty-answer",
    "too-long",
    "duplicate",
    "in-anchors",
    "in-benchmark",
]

_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("index", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


class Why(NamedTuple):
    """What a check answers about a sample that must not be used."""

    reason: Reason
    detail: str


class Rejected(Exception):
    """Raised where a record cannot even become a sample."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.why = Why(reason, detail)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that was read and kept out."""

    source: Source
    index: int
    """Position among the source's records, from 0; blank JSONL lines are no records, a broken file is one."""
    id: str
    """Content digest, empty where the record never became a sample."""
    reason: Reason
    detail: str


def write_quarantine(path: str | Path, quarantine: Iterable[Quarantined]) -> Path:
    """Publish the entries as a Parquet table `source, index, id, reason, detail`, a row a record."""
    table = pa.Table.from_pylist([asdict(entry) for entry in quarantine], schema=_SCHEMA)
    with publish(path) as part:
        pq.write_table(table, part)
    return Path(path)


def show(value: object) -> str:
    """A value found in a record, short and escaped enough to stand in a message."""
    return _REPR.repr(value)
