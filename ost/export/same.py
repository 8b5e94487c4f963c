"""The user's own records, byte for byte, in the form and under the names of their own files."""

import contextlib
import gzip
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from ost.errors import DataError
from ost.export.kept import Kept
from ost.formats import Source, arrow_file, form_of, json_text, parquet, tar

GROUP_BYTES = 1 << 25
"""Bytes of a row group, about."""

_CODECS = {"UNCOMPRESSED": "none", "LZ4_RAW": "lz4"}
"""Parquet's names of codecs that the writer has others for."""


def write_same(kept: Kept, source: Source, folder: Path, tick: Callable[[int], None]) -> None:
    """Write the kept records of a source; `tick` is called with how many there are so far.

    Of each file that a sample comes from the records are taken by their positions, in the file's order. What separates
    them, and how they are packed, is made anew. Raises DataError where the source lacks one of them.
    """
    if _is_saved(source):
        _save(kept, source, folder)
        tick(len(kept))
        return
    files = files_of(kept, source)
    done = 0
    for name, positions in by_file(kept):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        wrote = _WRITERS[form_of(files[name])](files[name], target, set(positions.tolist()))
        if wrote != len(positions):
            raise DataError(
                f"{name} has {wrote:,} of the {len(positions):,} kept records: the file changed; ingest the pool anew"
            )
        done += wrote
        tick(done)


def by_file(kept: Kept) -> Iterator[tuple[str, np.ndarray]]:
    """The files that kept samples come from, in the pool's order, and the positions of these in them."""
    files = kept.facts["file"].combine_chunks().dictionary_encode()
    codes, positions = files.indices.to_numpy(), kept.facts["position"].to_numpy()
    order = np.argsort(codes, kind="stable")
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    for places in np.split(order, borders):
        yield files.dictionary[codes[places[0]]].as_py(), positions[places]


def files_of(kept: Kept, source: Source) -> dict[str, Path]:
    """The files of a source by the names that tables call them. Raises DataError where one of a kept sample is gone."""
    files = {source.name(file): file for file in source.files}
    if lost := sorted(set(pc.unique(kept.facts["file"]).to_pylist()) - files.keys()):
        raise DataError(
            f"{source.folder} has no {lost[0]}, which the pool was read from: give the source that was ingested, or "
            "ingest anew"
        )
    return files


def _write_json(file: Path, target: Path, positions: set[int]) -> int:
    records = json_text.raw_records(file, positions)
    count = 0
    with _packed(target) as stream:
        if json_text.is_array(file):
            for _, record in records:
                stream.write((b",\n" if count else b"[\n") + record)
                count += 1
            stream.write(b"\n]\n")
        else:
            for _, record in records:
                stream.write(record + b"\n")
                count += 1
    return count


def _write_parquet(file: Path, target: Path, positions: set[int]) -> int:
    codec = _codec(file)
    held: list[pa.Table] = []
    count = 0
    with pq.ParquetWriter(target, parquet.schema(file), compression=codec) as writer:
        for rows in parquet.raw_rows(file, positions):
            held.append(rows)
            count += len(rows)
            if sum(table.nbytes for table in held) > GROUP_BYTES:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))
    return count


def _write_arrow(file: Path, target: Path, positions: set[int]) -> int:
    count = 0
    with pa.ipc.new_stream(target, arrow_file.schema(file)) as writer:
        for rows in arrow_file.raw_rows(file, positions):
            writer.write_table(rows)
            count += len(rows)
    return count


def _write_tar(file: Path, target: Path, positions: set[int]) -> int:
    count = 0
    with _packed(target) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as packed:
        for _, members in tar.raw_members(file, positions):
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
            packed.members.clear()  # which grows with the tar
            count += 1
    return count


_WRITERS: Mapping[str, Callable[[Path, Path, set[int]], int]] = {
    "json": _write_json,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "tar": _write_tar,
}


@contextlib.contextmanager
def _packed(target: Path) -> Iterator[BinaryIO]:
    """A file to write to, packed as its name says; without the time, so that the same records are the same file."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(target.open("wb"))
        if target.suffix.lower() in (".gz", ".tgz"):
            stream = stack.enter_context(gzip.GzipFile("", "wb", fileobj=stream, mtime=0))
        elif target.suffix.lower() == ".zst":
            stream = stack.enter_context(zstandard.ZstdCompressor().stream_writer(stream))
        yield stream


def _codec(file: Path) -> str:
    facts = pq.read_metadata(file)
    codec = facts.row_group(0).column(0).compression if facts.num_row_groups and facts.num_columns else "SNAPPY"
    return _CODECS.get(codec, codec.lower())


def _is_saved(source: Source) -> bool:
    """Whether the source is one `datasets` table in several files: a folder that it saved, or its cache of the hub."""
    return all(form_of(file) == "arrow" for file in source.files) and (
        (source.folder / "state.json").is_file() or (source.folder / "dataset_info.json").is_file()
    )


def _save(kept: Kept, source: Source, folder: Path) -> None:
    """By `datasets` itself, so that its features and its description come along."""
    if (source.folder / "state.json").is_file():
        whole = datasets.load_from_disk(str(source.folder))
        sizes = [_rows(file) for file in source.files]
    else:
        parts = [datasets.Dataset.from_file(str(file)) for file in source.files]
        whole, sizes = datasets.concatenate_datasets(parts), [len(part) for part in parts]
    starts = dict(zip(map(source.name, source.files), np.cumsum([0, *sizes]).tolist(), strict=False))
    files_of(kept, source)
    rows: list[int] = []
    for name, positions in by_file(kept):
        rows += (positions + starts[name]).tolist()
    if rows and max(rows) >= len(whole):
        raise DataError(f"{source.folder} has fewer rows than when it was read; ingest the pool anew")
    with _quiet():
        whole.select(rows).save_to_disk(str(folder))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars that `datasets` draws: ours is told otherwise."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _rows(file: Path) -> int:
    with pa.memory_map(str(file)) as stream:
        return sum(batch.num_rows for batch in pa.ipc.open_stream(stream))
