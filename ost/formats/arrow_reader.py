"""Arrow stream files, as `datasets` keeps them in a save_to_disk folder and in its cache; a unit is a range of rows."""

import struct
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pyarrow as pa

from ost.formats import arrow_rows
from ost.formats.arrow_rows import DAMAGE
from ost.formats.reject import Broken, unreadable
from ost.formats.streams import MOST_UNPACKED, MOST_UNPACKED_RATIO
from ost.formats.unit import MOST_BYTES, MOST_RECORDS, Loaded, Unit, digest_of

SUFFIXES = (".arrow",)
LISTED, COMPRESSED = (3, ".arrow"), ""


def units(file: Path, name: str) -> Iterator[Unit]:
    """Ranges of rows within the file's record batches; of the file, only the batches' headers are read here."""
    first = 0
    try:
        for at, batch in _batches(file):
            row = max(1, batch.nbytes // max(1, batch.num_rows))
            step = max(1, min(MOST_RECORDS, MOST_BYTES // row))
            for start in range(0, batch.num_rows, step):
                count = min(step, batch.num_rows - start)
                yield Unit(file, name, "arrow", first + start, count * row, (at, start, count))
            first += batch.num_rows
    except DAMAGE as error:
        yield Unit(file, name, "arrow", first, 0, unreadable(name, error, " to its end"))


def load(unit: Unit, columns: Mapping[str, str]) -> Loaded:
    """The rows; raises one of DAMAGE where they cannot be read."""
    at, start, count = unit.payload
    # Mapped, not read: of a batch of any size, the range's own pages alone come into memory.
    with pa.memory_map(str(unit.file)) as source:
        schema = pa.ipc.open_stream(source).schema
        source.seek(at)
        rows = pa.ipc.read_record_batch(pa.ipc.read_message(source), schema).slice(start, count)
        rows.validate(full=True)  # else damaged offsets end the process
        rows = rows.take(pa.array(range(count)))  # a copy, since a slice is hashed with what stands around it
    digest = digest_of([schema.remove_metadata().serialize(), rows.serialize()])
    return Loaded(digest, enumerate(_records(rows, columns, unit.name), start=unit.first))


def raw_rows(file: Path, positions: AbstractSet[int]) -> Iterator[pa.Table]:
    """The rows at `positions`, all their columns as stored, in the file's order and in batches; the schema is kept."""
    first = 0
    for _, batch in _batches(file):
        if own := [row for row in range(batch.num_rows) if first + row in positions]:
            batch.validate(full=True)
            size = arrow_rows.batch_rows(batch.nbytes, batch.num_rows)
            for start in range(0, len(own), size):
                yield pa.Table.from_batches([batch]).take(own[start : start + size])
        first += batch.num_rows


def schema(file: Path) -> pa.Schema:
    """The schema of all that `raw_rows` yields, which may be nothing."""
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).schema


def copy_records(file: Path, target: Path, positions: AbstractSet[int]) -> Iterator[int]:
    """Write the records at these positions into another file of this form; gives how many, as they are written."""
    with pa.ipc.new_stream(target, schema(file)) as writer:
        for rows in raw_rows(file, positions):
            writer.write_table(rows)
            yield len(rows)


def _batches(file: Path) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Where each record batch stands in the file, and the batch, mapped."""
    with pa.memory_map(str(file)) as source:
        schema = pa.ipc.open_stream(source).schema
        at, size = source.tell(), source.size()
        while at < size:
            source.seek(at)
            try:
                message = pa.ipc.read_message(source)
            except EOFError:  # the mark of the stream's end
                return
            if message.type == "dictionary":
                raise ValueError("it has columns encoded by a dictionary; save them as plain ones")
            most = max(MOST_UNPACKED, MOST_UNPACKED_RATIO * len(message.body))
            if (size_unpacked := _unpacked(message)) > most:
                raise ValueError(f"a batch would grow from {len(message.body):,} bytes to {size_unpacked:,}")
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate()
            yield at, batch
            at = source.tell()


def _unpacked(message: pa.ipc.Message) -> int:
    """Bytes that the buffers of a record batch take once they are unpacked, as each of them says at its start.

    Arrow has no name for this in Python, so that the message is read here: a table of FlatBuffers, whose third field is
    the batch, whose third and fourth are the buffers' places and how they are packed (Arrow's format/Message.fbs).
    """
    told, body = memoryview(message.metadata), memoryview(message.body)

    def number(kind: str, at: int) -> int:
        return struct.unpack_from(f"<{kind}", told, at)[0]

    def field(table: int, index: int) -> int:
        """Where a table has a field; 0 where it has not."""
        fields = table - number("i", table)
        offset = number("H", fields + 4 + 2 * index) if 4 + 2 * index < number("H", fields) else 0
        return offset and table + offset

    try:
        batch = field(number("I", 0), 2)
        batch += number("I", batch)
        if not field(batch, 3):
            return len(body)
        buffers = field(batch, 2)
        buffers += number("I", buffers)
        places = [struct.unpack_from("<qq", told, buffers + 4 + 16 * one) for one in range(number("I", buffers))]
        sizes = [(size, struct.unpack_from("<q", body, at)[0]) for at, size in places if size]
    except struct.error as error:
        raise ValueError(f"its batches are damaged: {error}") from error
    return sum(size if unpacked < 0 else unpacked for size, unpacked in sizes)  # -1: this one is not packed


def _records(rows: pa.RecordBatch, columns: Mapping[str, str], name: str) -> Iterator[dict | Broken]:
    filled = [column for column in rows.schema.names if rows.column(column).null_count < rows.num_rows]
    step = arrow_rows.batch_rows(rows.nbytes, rows.num_rows)

    def read(names: list[str]) -> Iterator[pa.RecordBatch]:
        return (rows.slice(start, step).select(names) for start in range(0, rows.num_rows, step))

    return arrow_rows.records(name, rows.schema, columns, filled, read)
