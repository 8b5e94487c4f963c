"""Parquet files: a unit is a row group, which is streamed however large it is."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ost.formats import arrow_rows
from ost.formats.arrow_rows import DAMAGE
from ost.formats.reject import Broken, unreadable
from ost.formats.streams import MOST_UNPACKED_RATIO
from ost.formats.unit import MOST_RECORD, Loaded, Unit, digest_of

SUFFIXES = (".parquet",)
LISTED, COMPRESSED = (2, ".parquet"), ""

GROUP_BYTES = 1 << 25
"""Bytes of a row group that is written, about."""
_CODECS = {"UNCOMPRESSED": "none", "LZ4_RAW": "lz4"}
"""Parquet's names of codecs that the writer has others for."""
MOST_UNPACKED = 1 << 28
"""Bytes of a row group beyond which one that packs too well is taken for a decompression bomb."""

_BUFFER = 1 << 20


def units(file: Path, name: str) -> Iterator[Unit]:
    """A unit for each row group; one that is Broken where the file cannot be opened."""
    first = 0
    try:
        with _opened(file) as parquet:
            for group in range(parquet.num_row_groups):
                facts = parquet.metadata.row_group(group)
                yield Unit(file, name, "parquet", first, _packed(facts), group)
                first += facts.num_rows
    except DAMAGE as error:
        yield Unit(file, name, "parquet", first, file.stat().st_size, unreadable(name, error))


def load(unit: Unit, columns: Mapping[str, str]) -> Loaded:
    """The row group's rows, as far as they can be read; raises one of DAMAGE where none can."""
    digest = digest_of(_raw(unit.file, unit.payload))
    return Loaded(digest, enumerate(_records(unit, columns), start=unit.first))


def raw_rows(file: Path, positions: AbstractSet[int]) -> Iterator[pa.Table]:
    """The rows at `positions`, all their columns as stored, in the file's order and in batches; the schema is kept."""
    first = 0
    with _opened(file) as parquet:
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if not positions.isdisjoint(range(first, first + rows)):
                at = first
                for batch in _batches(file, parquet, group, None):
                    if own := [row for row in range(batch.num_rows) if at + row in positions]:
                        table = pa.Table.from_batches([batch]).take(own)
                        yield table.replace_schema_metadata(parquet.schema_arrow.metadata)
                    at += batch.num_rows
            first += rows


def schema(file: Path) -> pa.Schema:
    """The schema of all that `raw_rows` yields, which may be nothing."""
    return pq.read_schema(file)


def copy_records(file: Path, target: Path, positions: AbstractSet[int]) -> Iterator[int]:
    """Write the records at these positions into another file of this form; gives how many, as they are written."""
    held: list[pa.Table] = []
    with pq.ParquetWriter(target, schema(file), compression=_codec(file)) as writer:
        for rows in raw_rows(file, positions):
            held.append(rows)
            if sum(table.nbytes for table in held) > GROUP_BYTES:
                writer.write_table(pa.concat_tables(held))
                held = []
            yield len(rows)
        if held:
            writer.write_table(pa.concat_tables(held))


def _opened(file: Path) -> contextlib.AbstractContextManager[pq.ParquetFile]:
    # Not read ahead: that would hold a whole row group.
    return pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


def _batches(file: Path, parquet: pq.ParquetFile, group: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """A row group's rows, as many at a time as memory is for."""
    facts = parquet.metadata.row_group(group)
    rows = arrow_rows.batch_rows(facts.total_byte_size, facts.num_rows)
    rows = max(1, min(rows, MOST_RECORD // max(1, _largest_dictionary(file, facts))))
    return parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)


def _records(unit: Unit, columns: Mapping[str, str]) -> Iterator[dict | Broken]:
    came, place = 0, f"row group {unit.payload} of {unit.name}"
    with _opened(unit.file) as parquet:
        facts = parquet.metadata.row_group(unit.payload)
        if facts.total_byte_size > max(MOST_UNPACKED, MOST_UNPACKED_RATIO * _packed(facts)):
            grown = f"from {_packed(facts):,} bytes to {facts.total_byte_size:,}"
            yield Broken(f"{place} would grow {grown}", "broken-file")
            return
        try:
            if facts.total_byte_size > MOST_RECORD * max(1, facts.num_rows):
                yield Broken(f"{place} has rows of more than {MOST_RECORD:,} bytes", "broken-file")
                return
            filled = _filled(facts, parquet.schema_arrow)
            if (largest := _largest_dictionary(unit.file, facts)) > MOST_RECORD:
                yield Broken(f"{place} has a dictionary of {largest:,} bytes, more than {MOST_RECORD:,}", "broken-file")
                return
            read = functools.partial(_batches, unit.file, parquet, unit.payload)
            for row in arrow_rows.records(unit.name, parquet.schema_arrow, columns, filled, read):
                yield row
                came += 1
        except DAMAGE as error:
            lost = f"; it held {facts.num_rows - came:,} of its {facts.num_rows:,} rows"
            yield Broken(unreadable(place, error).detail + lost, "broken-file")


def _filled(facts: pq.RowGroupMetaData, schema: pa.Schema) -> list[str]:
    """Names of the columns that hold anything in the row group, as far as its statistics tell."""
    chunks = [facts.column(index) for index in range(facts.num_columns)]
    empty = [chunk.is_stats_set and chunk.statistics.null_count == chunk.num_values for chunk in chunks]
    paths = [f"{chunk.path_in_schema}." for chunk, nothing in zip(chunks, empty, strict=True) if not nothing]
    return [
        field.name
        for field in schema
        if not pa.types.is_null(field.type) and any(path.startswith(f"{field.name}.") for path in paths)
    ]


def _largest_dictionary(file: Path, facts: pq.RowGroupMetaData) -> int:
    """Unpacked bytes of the largest dictionary of a column: a value of it may stand in every row.

    Writers end a dictionary at about a megabyte. Its size is the second field of its page's header, in Thrift's compact
    form: for each field a byte, and a number by 7 bits a byte, doubled for its sign.
    """
    chunks = [facts.column(index) for index in range(facts.num_columns)]
    found = 0
    with file.open("rb") as stream:
        for chunk in chunks:
            if chunk.dictionary_page_offset is not None:
                stream.seek(chunk.dictionary_page_offset)
                header = iter(stream.read(12))
                size = shift = 0
                for byte in itertools.islice(header, 3, None):  # behind the page's type
                    size |= (byte & 0x7F) << shift
                    shift += 7
                    if byte < 0x80:
                        break
                found = max(found, size // 2)
    return found


def _packed(facts: pq.RowGroupMetaData) -> int:
    return sum(facts.column(index).total_compressed_size for index in range(facts.num_columns))


def _raw(file: Path, group: int) -> Iterator[bytes]:
    """The schema and the row group's pages as they stand in the file, a column after the other."""
    with _opened(file) as parquet:
        yield parquet.schema_arrow.remove_metadata().serialize().to_pybytes()
        facts = parquet.metadata.row_group(group)
        chunks = [facts.column(index) for index in range(facts.num_columns)]
    with file.open("rb") as stream:
        for chunk in chunks:
            starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
            stream.seek(min(start for start in starts if start is not None))
            left = chunk.total_compressed_size
            while left > 0 and (piece := stream.read(min(left, _BUFFER))):
                yield piece
                left -= len(piece)


def _codec(file: Path) -> str:
    facts = pq.read_metadata(file)
    codec = facts.row_group(0).column(0).compression if facts.num_row_groups and facts.num_columns else "SNAPPY"
    return _CODECS.get(codec, codec.lower())
