"""The data contract: what a sample is, its content digest, and the tables that hold samples.

A sample is `{"id", "images", "messages", "task"}`. Messages are in the chat form that `transformers` processors take:
`content` is a list of parts, `{"type": "image"}` or `{"type": "text", "text": ...}`; images travel as encoded bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ost.store import publish

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "images": datasets.List(datasets.Image(decode=False)),
        "messages": datasets.List(
            {
                "role": datasets.Value("string"),
                "content": datasets.List({"type": datasets.Value("string"), "text": datasets.Value("string")}),
            }
        ),
        "task": datasets.Value("string"),
    }
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image-text sample; the last message is the assistant's answer."""

    images: tuple[bytes, ...]
    """Encoded image files, in the order of the image parts."""
    messages: tuple[dict, ...]
    """Chat turns `{"role", "content": [parts]}`."""
    task: str = ""
    """Kind of question; anchor groups and metrics are formed by it."""
    id: str = ""
    """Digest of images and messages; filled in where it is left empty."""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", sample_id(self.images, self.messages))

    @property
    def answer(self) -> str:
        """Text of the last message."""
        return _text(self.messages[-1]) if self.messages else ""

    @property
    def question(self) -> str:
        """Text of all turns before the last."""
        return "\n".join(_text(message) for message in self.messages[:-1])


def sample_id(images: Iterable[bytes], messages: Iterable[dict]) -> str:
    """Digest of a sample's content, the same on every machine (BLAKE2b, 128 bits, hexadecimal)."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(hashlib.blake2b(image, digest_size=16).digest())
    turns = [{"role": turn["role"], "content": [_part(part) for part in turn["content"]]} for turn in messages]
    digest.update(json.dumps(turns, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def chat(question: str, answer: str, images: int = 1) -> tuple[dict, ...]:
    """The messages of a one-turn sample: `images` image parts, the question, the answer."""
    parts = [{"type": "image", "text": None}] * images + [{"type": "text", "text": question}]
    return (
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    )


def write_samples(path: str | Path, samples: Iterable[Sample]) -> Path:
    """Write samples as one Parquet file with the images inside; the file appears whole or not at all."""
    rows = [
        {
            "id": sample.id,
            "images": [{"bytes": image, "path": None} for image in sample.images],
            "messages": list(sample.messages),
            "task": sample.task,
        }
        for sample in samples
    ]
    columns = {name: [row[name] for row in rows] for name in FEATURES}
    table = datasets.Dataset.from_dict(columns, features=FEATURES).data.table
    with publish(path) as part:
        pq.write_table(table, part, row_group_size=1000)
    return Path(path)


def read_samples(path: str | Path) -> Iterator[Sample]:
    """Samples of a Parquet file that `write_samples` made, read row group by row group."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=500):
        for row in batch.to_pylist():
            yield from_row(row)


class SampleFile:
    """Samples of such a Parquet file by position, read when they are taken: the file is never held whole."""

    def __init__(self, path: str | Path):
        self._file = pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def ids(self) -> pa.ChunkedArray:
        """The N ids, in order."""
        return self._file.read(columns=["id"])["id"]

    def take(self, positions: Sequence[int]) -> list[Sample]:
        """The samples at ascending positions."""
        wanted, found = np.asarray(positions, dtype=np.int64), []
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        for group in np.unique(groups):
            own = wanted[groups == group] - self._starts[group]
            found += [from_row(row) for row in self._file.read_row_group(int(group)).take(own).to_pylist()]
        return found


def from_row(row: dict) -> Sample:
    """A stored row as a sample."""
    images = tuple(image["bytes"] for image in row["images"])
    return Sample(images=images, messages=tuple(row["messages"]), task=row["task"], id=row["id"])


def content_digest(ids: Iterable[str]) -> str:
    """Digest of a set of samples, whatever their order: the dataset digest that MLflow is given."""
    return hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=16).hexdigest()


def _text(message: dict) -> str:
    return "".join(part.get("text") or "" for part in message["content"] if part["type"] == "text")


def _part(part: dict) -> dict:
    return {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]}
