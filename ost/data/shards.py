"""Shards: samples as Parquet files, cut by bytes, with the images inside; named by what they hold."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ost.data.sample import OPTIONAL, Sample
from ost.store import name_file, publish

MESSAGE = {
    "role": datasets.Value("string"),
    "content": datasets.List({"type": datasets.Value("string"), "text": datasets.Value("string")}),
    "reasoning_content": datasets.Value("string"),
    "loss": datasets.Value("bool"),
}
CONTENT = datasets.Features(
    {
        "id": datasets.Value("string"),
        "images": datasets.List(datasets.Image(decode=False)),
        "messages": datasets.List(MESSAGE),
        "task": datasets.Value("string"),
    }
)
"""What a sample is."""
FEATURES = datasets.Features(
    {
        **CONTENT,
        "tokens": datasets.Value("int32"),
        "learned": datasets.Value("int32"),
        "sizes": datasets.List({"width": datasets.Value("int32"), "height": datasets.Value("int32")}),
        "own_id": datasets.Value("string"),
        "file": datasets.Value("string"),
        "position": datasets.Value("int64"),
        "ratings": datasets.List({"name": datasets.Value("string"), "value": datasets.Value("float32")}),
    }
)
"""A sample, and what ingestion found out about it; see `Facts`."""

SHARD_BYTES, GROUP_BYTES, GROUP_SAMPLES = 192 << 20, 4 << 20, 1000
"""Bytes of samples from which on a shard, and a row group in it, is ended: a shard stays under 256 MB and a row group
under 32 MB, unless one sample alone is larger, and a sample that is drawn costs the reading of one small group."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What ingestion knows of a sample beside its content: a row's further columns."""

    tokens: int
    """Of the whole sample by the target's processor, image tokens included."""
    learned: int
    """Of them, those that a loss is taken on."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image, as a person sees it."""
    file: str
    """File of the source that the record stood in."""
    position: int
    """Its place in that file, from 0."""
    own_id: str | None = None
    """The user's own id as JSON text, such as `"a"` or `17`."""
    ratings: Mapping[str, float] = field(default_factory=dict)
    """Ratings that came with it, such as FineVision's."""

    def to_row(self) -> dict:
        """The facts as columns."""
        sizes = [{"width": width, "height": height} for width, height in self.sizes]
        ratings = [{"name": name, "value": value} for name, value in sorted(self.ratings.items())]
        return asdict(self) | {"sizes": sizes, "ratings": ratings}


@dataclass(frozen=True, slots=True)
class Shard:
    """One Parquet file of a sample set."""

    file: str
    samples: int


class ShardWriter:
    """Writes samples into a folder, one shard after the other; no more than a row group of them is held.

    A shard's name is the digest of its rows, so that the same rows are one file, on every machine and in every run.
    Used as a context; what it wrote stands in `shards` behind it. A shard that an error ends is not published.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards: list[Shard] = []
        self._file: pq.ParquetWriter | None = None
        self._part = folder / f"shard-{os.getpid()}-{id(self):x}.part"
        self._rows: list[dict] = []
        self._held = self._size = self._samples = 0

    def __enter__(self) -> "ShardWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._end_shard()
        elif self._file:
            self._file.close()
            self._part.unlink()

    def add(self, sample: Sample, facts: Facts) -> None:
        """Append a sample."""
        own = size_of(sample)
        if self._rows and (self._held + own > GROUP_BYTES or len(self._rows) == GROUP_SAMPLES):
            self._end_group()
        if self._size and self._size + own > SHARD_BYTES:
            self._end_shard()
        self._rows.append(to_row(sample) | facts.to_row())
        self._held += own
        self._size += own

    def _end_group(self) -> None:
        if not self._rows:
            return
        if self._file is None:
            self._file, self._name = _open(self._part, FEATURES), hashlib.blake2b(digest_size=16)
        for row in self._rows:
            told = {name: value for name, value in row.items() if name not in ("images", "messages")}
            self._name.update(json.dumps(told, sort_keys=True).encode())
        self._file.write_table(_table(self._rows, FEATURES))
        self._samples += len(self._rows)
        self._rows, self._held = [], 0

    def _end_shard(self) -> None:
        self._end_group()
        if self._file is None:
            return
        self._file.close()
        name = f"{self._name.hexdigest()}.parquet"
        name_file(self._part, self.folder / name)
        self.shards.append(Shard(name, self._samples))
        self._file, self._size, self._samples = None, 0, 0


def write_samples(path: str | Path, samples: Iterable[Sample]) -> Path:
    """Write samples as one Parquet file with the images inside; the file appears whole or not at all."""
    with publish(path) as part, _open(part, CONTENT) as file:
        rows: list[dict] = []
        held = 0
        for sample in samples:
            rows.append(to_row(sample))
            held += size_of(sample)
            if held > GROUP_BYTES or len(rows) == GROUP_SAMPLES:
                file.write_table(_table(rows, CONTENT))
                rows, held = [], 0
        if rows:
            file.write_table(_table(rows, CONTENT))
    return Path(path)


def size_of(sample: Sample) -> int:
    """About how many bytes a sample takes: those of its images and texts."""
    texts = sum(len(part.get("text") or "") for message in sample.messages for part in message["content"])
    return sum(map(len, sample.images)) + texts


def to_row(sample: Sample) -> dict:
    """A sample as a stored row."""
    return {
        "id": sample.id,
        "images": [{"bytes": image, "path": None} for image in sample.images],
        "messages": list(sample.messages),
        "task": sample.task,
    }


def from_row(row: Mapping) -> Sample:
    """A stored row as a sample."""
    images = tuple(image["bytes"] for image in row["images"])
    messages = tuple(
        {key: value for key, value in turn.items() if value is not None or key not in OPTIONAL}
        for turn in row["messages"]
    )
    return Sample(images=images, messages=messages, task=row["task"], id=row["id"])


def _open(path: Path, features: datasets.Features) -> pq.ParquetWriter:
    schema = features.arrow_schema
    pq.write_table(schema.empty_table(), sink := pa.BufferOutputStream())  # to have Parquet's own names of the columns
    leaves = [column.path for column in pq.read_metadata(pa.BufferReader(sink.getvalue())).schema]
    return pq.ParquetWriter(
        path,
        schema,
        # Images are compressed as they are, and no two are alike.
        compression=dict.fromkeys(leaves, "zstd") | {"images.list.element.bytes": "none"},
        use_dictionary=[leaf for leaf in leaves if leaf.endswith(("task", "file", "role", "type", "name"))],
        write_statistics=["id", "position"],
    )


def _table(rows: Sequence[dict], features: datasets.Features) -> pa.Table:
    return pa.Table.from_pylist(rows, features.arrow_schema)
