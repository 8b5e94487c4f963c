"""Units: the consecutive records of one file that are loaded, and found unchanged, together.

Where a file is cut is decided by the records alone (content-defined chunking, as in LBFS, doi:10.1145/502034.502052):
what is appended to a file changes its last unit, and what is inserted changes the one that it falls into, save that a
unit which reaches a hard limit passes its overhang on.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ost.formats.reject import Broken

Item = TypeVar("Item")

TYPICAL_RECORDS, TYPICAL_BYTES = 256, 1 << 23
"""A record ends its unit with a chance of one in the first, or its share of the second, whichever is more."""

MOST_RECORDS, MOST_BYTES = 1024, 1 << 25
"""Where a unit ends in any case."""

MOST_RECORD = 1 << 28
"""Bytes of one record, or of one member of a tar, beyond which it is refused unread."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive records of one file, as they are handed to a worker process; picklable."""

    file: Path
    name: str
    """The file relative to its source, with forward slashes: what messages and tables call it."""
    form: str
    first: int
    """Position of its first record in the file, from 0."""
    size: int
    """Bytes of the source that it stands for; of all units together, about the source's size."""
    payload: Any
    """What the reader's `load` needs, or one Broken in place of all."""


class Loaded(NamedTuple):
    """A unit's records, read as they are taken."""

    digest: str
    """Of the raw content alone, wherever it stands: equal digests hold equal records."""
    records: Iterator[tuple[int, dict | Broken]]
    """Position in the file, and the record as the user wrote it."""


def cut(items: Iterable[Item], key: Callable[[Item], bytes], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """The items in their order, grouped into units; `key` is what identifies an item, `size` its bytes."""
    unit: list[Item] = []
    total = 0
    for item in items:
        own = size(item)
        if unit and total + own > MOST_BYTES:
            yield unit
            unit, total = [], 0
        unit.append(item)
        total += own
        draw = int.from_bytes(hashlib.blake2b(key(item), digest_size=8).digest(), "big") / 2**64
        if len(unit) >= MOST_RECORDS or draw < max(1 / TYPICAL_RECORDS, own / TYPICAL_BYTES):
            yield unit
            unit, total = [], 0
    if unit:
        yield unit


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """Digest of a sequence of byte strings, each with its length (BLAKE2b, 128 bits, hexadecimal)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
