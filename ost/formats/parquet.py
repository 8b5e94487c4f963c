"""Parquet files: a unit is a row group, which is streamed however large it is."""

import contextlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ost.formats import arrow_rows
from ost.formats.arrow_rows import DAMAGE
from ost.formats.reject import Broken, show
from ost.formats.streams import MOST_UNPACKED_RATIO
from ost.formats.unit import Loaded, Unit, digest_of

SUFFIXES = (".parquet",)

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
        broken = Broken(f"{name} cannot be read: {show(str(error))}", "broken-file")
        yield Unit(file, name, "parquet", first, file.stat().st_size, broken)


def load(unit: Unit, columns: Mapping[str, str]) -> Loaded:
    """The row group's rows, as far as they can be read, and one Broken for those that cannot."""
    try:
        digest = digest_of(_raw(unit.file, unit.payload))
    except DAMAGE as error:
        return Loaded(
            "", iter([(unit.first, Broken(f"{unit.name} cannot be read: {show(str(error))}", "broken-file"))])
        )
    return Loaded(digest, enumerate(_records(unit, columns), start=unit.first))


def raw_rows(file: Path, positions: AbstractSet[int]) -> Iterator[pa.Table]:
    """The rows at `positions`, all their columns as stored, in the file's order and in batches; the schema is kept."""
    first = 0
    with _opened(file) as parquet:
        for group in range(parquet.num_row_groups):
            facts = parquet.metadata.row_group(group)
            if not positions.isdisjoint(range(first, first + facts.num_rows)):
                yield from _chosen(parquet, group, first, positions)
            first += facts.num_rows


def schema(file: Path) -> pa.Schema:
    """The schema of all that `raw_rows` yields, which may be nothing."""
    with _opened(file) as parquet:
        return parquet.schema_arrow


def _opened(file: Path) -> contextlib.AbstractContextManager[pq.ParquetFile]:
    # Not read ahead: that would hold a whole row group.
    return pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


def _batches(parquet: pq.ParquetFile, group: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    facts = parquet.metadata.row_group(group)
    rows = arrow_rows.batch_rows(facts.total_byte_size, facts.num_rows)
    return parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)


def _chosen(parquet: pq.ParquetFile, group: int, first: int, positions: AbstractSet[int]) -> Iterator[pa.Table]:
    for batch in _batches(parquet, group, None):
        if own := [row for row in range(batch.num_rows) if first + row in positions]:
            yield pa.Table.from_batches([batch]).take(own).replace_schema_metadata(parquet.schema_arrow.metadata)
        first += batch.num_rows


def _records(unit: Unit, columns: Mapping[str, str]) -> Iterator[dict | Broken]:
    came, place = 0, f"row group {unit.payload} of {unit.name}"
    with _opened(unit.file) as parquet:
        facts = parquet.metadata.row_group(unit.payload)
        names = arrow_rows.wanted(parquet.schema_arrow, columns, unit.name)
        if facts.total_byte_size > max(MOST_UNPACKED, MOST_UNPACKED_RATIO * _packed(facts)):
            grown = f"from {_packed(facts):,} bytes to {facts.total_byte_size:,}"
            names = Broken(f"{place} would grow {grown}", "broken-file")
        if isinstance(names, Broken):
            yield names
            return
        try:
            left = [name for name in _filled(parquet, unit.payload) if name not in names]
            for row in arrow_rows.records(_batches(parquet, unit.payload, names), columns, left):
                yield row
                came += 1
        except DAMAGE as error:
            lost = f"{facts.num_rows - came:,} of its {facts.num_rows:,} rows"
            yield Broken(f"{place} cannot be read: {show(str(error))}; it held {lost}", "broken-file")


def _filled(parquet: pq.ParquetFile, group: int) -> list[str]:
    """Names of the columns that hold anything in the row group, as far as its statistics tell."""
    facts = parquet.metadata.row_group(group)
    chunks = [facts.column(index) for index in range(facts.num_columns)]
    filled = [
        chunk.path_in_schema
        for chunk in chunks
        if not (chunk.is_stats_set and chunk.statistics.null_count == chunk.num_values)
    ]
    return [
        field.name
        for field in parquet.schema_arrow
        if not pa.types.is_null(field.type)
        and any(path == field.name or path.startswith(f"{field.name}.") for path in filled)
    ]


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
