"""Readers: the forms that a user's pool, anchor set or benchmark may have, as one stream of raw records."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ost.errors import DataError
from ost.ingestion.quarantine import Reason, show

FORMS = "a .jsonl or .parquet file, a folder of such files, or a `datasets` folder made by save_to_disk"

FIELDS = ("images", "image", "messages", "task")
"""All that is read of a record. A given `id` is not: ours is the content's digest."""

ROWS = 64
"""Rows in memory at a time, images included."""

MOST_UNPACKED, MOST_UNPACKED_RATIO = 1 << 28, 1000
"""Bytes of a row group, and times its packed size, beyond both of which it is taken for a decompression bomb."""

DAMAGE = (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException)
"""What Arrow raises at damaged bytes."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A place in the source where a record should stand, or many, but cannot be read."""

    detail: str
    reason: Reason = "malformed"


def read_records(source: str | Path) -> Iterator[dict | Broken]:
    """The records of a source in their order, streamed; those of a folder's files in the order of their paths.

    A Parquet file, or a row group of one, that cannot be read is one Broken record, and the rest goes on. Raises
    DataError where nothing stands at `source`, its form is not one of FORMS, or a `datasets` folder is damaged.
    """
    source = Path(source)
    if source.is_dir():
        return _folder(source)
    if not source.is_file():
        raise DataError(f"nothing is at {source}; give {FORMS}")
    if source.suffix.lower() not in READERS:
        raise DataError(f"{source} is a {source.suffix or 'nameless'} file, which is not read; give {FORMS}")
    return _files([source], source.parent)


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
    if files := _sample_files(source):
        return _files(files, source)
    found = ", ".join(sorted(child.name for child in source.iterdir())[:5]) or "nothing"
    raise DataError(f"the folder {source} holds no samples (found: {found}); give {FORMS}")


def _sample_files(folder: Path) -> list[Path]:
    """All files of a folder that hold samples, however deep, in the order of their paths; hidden ones are left out."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in READERS and path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _files(files: Iterable[Path], folder: Path) -> Iterator[dict | Broken]:
    for file in files:
        yield from READERS[file.suffix.lower()](file, file.relative_to(folder).as_posix())


def _jsonl(file: Path, name: str) -> Iterator[dict | Broken]:
    with _damage_named(file), file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _json_object(line, f"line {number} of {name}")


def _json_object(line: bytes, place: str) -> dict | Broken:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Broken(f"{place} is not JSON: {error}")
    return record if isinstance(record, dict) else Broken(f"{place} is no JSON object but {show(record)}")


def _parquet(path: Path, name: str) -> Iterator[dict | Broken]:
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow.names, name)
            for group in range(file.num_row_groups):
                yield from _row_group(file, group, columns, f"row group {group} of {name}")
    except DataError as error:
        yield Broken(str(error), "broken-file")
    except DAMAGE as error:
        yield Broken(f"{name} cannot be read: {show(str(error))}", "broken-file")


def _row_group(file: pq.ParquetFile, group: int, columns: list[str], place: str) -> Iterator[dict | Broken]:
    """Its rows as far as they can be read, and one Broken for those that cannot."""
    facts = file.metadata.row_group(group)
    packed = sum(facts.column(index).total_compressed_size for index in range(facts.num_columns))
    if facts.total_byte_size > max(MOST_UNPACKED, MOST_UNPACKED_RATIO * packed):
        yield Broken(f"{place} would grow from {packed:,} bytes to {facts.total_byte_size:,}", "broken-file")
        return
    came = 0
    try:
        for row in _rows(file.iter_batches(batch_size=ROWS, row_groups=[group], columns=columns)):
            yield row
            came += 1
    except DAMAGE as error:
        lost = f"{facts.num_rows - came:,} of its {facts.num_rows:,} rows"
        yield Broken(f"{place} cannot be read: {show(str(error))}; it held {lost}", "broken-file")


def _saved_dataset(source: Path) -> Iterator[dict | Broken]:
    with _damage_named(source):
        dataset = datasets.load_from_disk(str(source))
        columns = _columns(dataset.column_names, source)
        # Arrow rows hold images as stored: nothing is decoded before its header has been looked at.
        yield from _rows(dataset.select_columns(columns).with_format("arrow").iter(batch_size=ROWS))


def _columns(names: Iterable[str], source: Path | str) -> list[str]:
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
    except DAMAGE as error:
        raise DataError(f"{source} cannot be read to its end: {error}; write it anew, as {FORMS}") from error


READERS: dict[str, Callable[[Path, str], Iterator[dict | Broken]]] = {".jsonl": _jsonl, ".parquet": _parquet}
"""What reads a file, by its suffix; it is given the name that messages call the file by."""
