"""Readers: the forms that a user's pool, anchor set or benchmark may have, as one stream of raw records."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ost.errors import DataError
from ost.ingestion.quarantine import show

FORMS = "a .jsonl file, a .parquet file, a folder of .parquet files, or a `datasets` folder made by save_to_disk"

FIELDS = ("images", "image", "messages", "task")
"""All that is read of a record. A given `id` is not: ours is the content's digest."""

ROWS = 64
"""Rows in memory at a time, images included."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A place in the source where a record should stand, but cannot be parsed."""

    detail: str


def read_records(source: str | Path) -> Iterator[dict | Broken]:
    """The records of a source in their order, streamed.

    Raises DataError where nothing stands at `source`, its form is not one of FORMS, or the file itself is damaged.
    """
    source = Path(source)
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise DataError(f"nothing is at {source}; give {FORMS}")
    match source.suffix.lower():
        case ".jsonl":
            return _jsonl(source)
        case ".parquet":
            return _parquet([source])
    raise DataError(f"{source} is a {source.suffix or 'nameless'} file, which is not read; give {FORMS}")


def image_folder(source: str | Path) -> Path:
    """The folder that a source's image paths start from and must stay in, symbolic links resolved."""
    source = Path(source)
    return (source if source.is_dir() else source.parent).resolve()


def _folder(source: Path) -> Iterator[dict | Broken]:
    if (source / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(child.name for child in source.iterdir() if child.is_dir()))
        raise DataError(f"{source} holds several splits ({splits}); give the folder of one, such as {source}/train")
    if (source / "state.json").is_file():
        return _saved_dataset(source)
    if shards := sorted(source.glob("*.parquet")):
        return _parquet(shards)
    found = ", ".join(sorted(child.name for child in source.iterdir())[:5]) or "nothing"
    raise DataError(f"the folder {source} holds no samples (found: {found}); give {FORMS}")


def _jsonl(source: Path) -> Iterator[dict | Broken]:
    with _damage_named(source), source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _json_object(line, number)


def _json_object(line: bytes, number: int) -> dict | Broken:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Broken(f"line {number} is not JSON: {error}")
    return record if isinstance(record, dict) else Broken(f"line {number} is no JSON object but {show(record)}")


def _parquet(shards: Iterable[Path]) -> Iterator[dict | Broken]:
    for shard in shards:
        with _damage_named(shard), pq.ParquetFile(shard) as file:
            columns = _columns(file.schema_arrow.names, shard)
            yield from _rows(file.iter_batches(batch_size=ROWS, columns=columns))


def _saved_dataset(source: Path) -> Iterator[dict | Broken]:
    with _damage_named(source):
        dataset = datasets.load_from_disk(str(source))
        columns = _columns(dataset.column_names, source)
        # Arrow rows hold images as stored: nothing is decoded before its header has been looked at.
        yield from _rows(dataset.select_columns(columns).with_format("arrow").iter(batch_size=ROWS))


def _columns(names: Iterable[str], source: Path) -> list[str]:
    names = list(names)
    if "messages" not in names:
        raise DataError(f"{source} has no column `messages` (found: {', '.join(names)}); name the chat turns so")
    return [name for name in FIELDS if name in names]


def _rows(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[dict | Broken]:
    for batch in batches:
        for index in range(batch.num_rows):
            # Row by row, so that one that Python cannot hold (text that is not UTF-8) does not take others with it.
            try:
                (row,) = batch.slice(index, 1).to_pylist()
            except (ValueError, OverflowError, pa.ArrowException) as error:
                row = Broken(f"the row cannot be read: {error}")
            yield row


@contextlib.contextmanager
def _damage_named(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{source} cannot be read to its end: {error}; write it anew, as {FORMS}") from error
