"""The one reader of sample sets: by place, by id, in order, or by column; never the whole with its images."""

import bisect
import functools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ost.data.sample import Sample
from ost.data.shards import CONTENT, FEATURES, Shard, from_row
from ost.errors import DataError
from ost.store import read_json, write_json

LISTING = "dataset.json"
"""Names the shards of a folder in their order, and the rows that were left out of the set after they were written."""

CACHED_BYTES, OPEN_FILES = 64 << 20, 64
"""Row groups that are kept in memory, in bytes, and files that are kept open."""


class Samples(Sequence[Sample], ABC):
    """A sequence of samples that are read when they are taken; a slice is a list."""

    @abstractmethod
    def at(self, places: Sequence[int]) -> list[Sample]:
        """The samples at these places, counted from 0, in the order asked for."""

    @abstractmethod
    def ids(self) -> list[str]:
        """Their ids, in order; no image is read for them."""

    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return self.at(range(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(f"sample {place} of {len(self)}")
        return self.at([place % len(self)])[0]

    def __getitems__(self, places: Sequence[int]) -> list[Sample]:
        """How torch's DataLoader asks for a batch."""
        return self.at(places)


class Dataset(Samples):
    """The samples of a folder of shards, or of one Parquet file that `write_samples` made, in their order.

    Samples are read when they are taken, a row group at a time. Raises DataError where no such set is.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._folder = self.path.parent if self.path.is_file() else self.path
        self._shards, left_out = _one_shard(self.path) if self.path.is_file() else _listed(self.path)
        self._left_out = {name: np.array(rows, dtype=np.int64) for name, rows in left_out.items()}
        kept = [shard.samples - len(left_out.get(shard.file, ())) for shard in self._shards]
        self._starts = np.cumsum([0, *kept])
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._opened = functools.lru_cache(OPEN_FILES)(_opened)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Sample]:
        for table in self.batches(CONTENT):
            for row in range(len(table)):
                yield _sample(table, row)

    def batches(self, columns: Iterable[str]) -> Iterator[pa.Table]:
        """Columns of all samples in order, a row group at a time."""
        for number, shard in enumerate(self._shards):
            rows, start = self._kept(number), 0
            with _open(self._folder / shard.file) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, list(columns))
                    own = rows[(rows >= start) & (rows < start + len(table))] - start
                    start += len(table)
                    yield table if len(own) == len(table) else table.take(own)

    def at(self, places: Sequence[int]) -> list[Sample]:
        """The samples at these places, in the order asked for; places that share a row group share its reading."""
        found: list[Sample | None] = [None] * len(places)
        for index in sorted(range(len(places)), key=places.__getitem__):
            number = int(np.searchsorted(self._starts, places[index], side="right")) - 1
            row = self._row(number, int(places[index] - self._starts[number]))
            _, starts = self._opened(self._folder / self._shards[number].file)
            group = bisect.bisect_right(starts, row) - 1
            found[index] = _sample(self._group(number, group), row - starts[group])
        return found

    def ids(self) -> list[str]:
        """See `Samples.ids`."""
        return self.table(["id"])["id"].to_pylist()

    def take(self, ids: Sequence[str]) -> list[Sample]:
        """The samples of these ids, in the order asked for; raises DataError for one that is not here."""
        return list(self.subset(ids))

    def subset(self, ids: Sequence[str]) -> "Subset":
        """The samples of these ids in that order, read when they are taken; raises DataError as `take` does."""
        places = pc.index_in(pa.array(ids, pa.string()), self.table(["id"])["id"].combine_chunks())
        if places.null_count:
            missing = [name for name, place in zip(ids, places.to_pylist(), strict=True) if place is None]
            raise DataError(f"{len(missing)} of {len(ids)} samples are not in {self.path.name}, such as {missing[0]}")
        return Subset(self, places.to_numpy())

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Columns of all samples, in order; images are not read unless they are named.

        Raises DataError for a column that there is not: one of the facts, in a file that `write_samples` made.
        """
        parts = [FEATURES.arrow_schema.empty_table().select(list(columns))]
        for number, shard in enumerate(self._shards):
            if absent := set(columns) - set(pq.read_schema(self._folder / shard.file).names):
                raise DataError(f"{shard.file} has no column {min(absent)}: give a sample set that ingestion made")
            table = pq.read_table(self._folder / shard.file, columns=list(columns)).select(list(columns))
            parts.append(table.take(self._kept(number)) if shard.file in self._left_out else table)
        return pa.concat_tables(parts)

    def _kept(self, number: int) -> np.ndarray:
        """Rows of a shard that belong to the set, ascending."""
        shard = self._shards[number]
        every = np.arange(shard.samples)
        left_out = self._left_out.get(shard.file)
        return every if left_out is None else np.delete(every, left_out)

    def _row(self, number: int, place: int) -> int:
        """The row of a shard that its so-many-th sample stands in."""
        return int(self._kept(number)[place]) if self._shards[number].file in self._left_out else place

    def _group(self, number: int, group: int) -> pa.Table:
        """A row group, from memory where it was read lately."""
        key = number, group
        if key not in self._groups:
            file, _ = self._opened(self._folder / self._shards[number].file)
            self._groups[key] = file.read_row_group(group)
            while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > CACHED_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


class Subset(Samples):
    """Some samples of a dataset, in an order of their own."""

    def __init__(self, dataset: Dataset, places: np.ndarray):
        self.dataset, self.places = dataset, places

    def __len__(self) -> int:
        return len(self.places)

    def at(self, places: Sequence[int]) -> list[Sample]:
        """See `Samples.at`."""
        return self.dataset.at(self.places[list(places)].tolist())

    def ids(self) -> list[str]:
        """See `Samples.ids`."""
        return self.dataset.table(["id"])["id"].take(self.places).to_pylist()


class Joined(Samples):
    """Two sequences of samples, one behind the other."""

    def __init__(self, first: Samples, second: Samples):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def at(self, places: Sequence[int]) -> list[Sample]:
        """See `Samples.at`."""
        border = len(self.first)
        return [self.first[place] if place < border else self.second[place - border] for place in places]

    def ids(self) -> list[str]:
        """See `Samples.ids`."""
        return self.first.ids() + self.second.ids()


def write_listing(folder: Path, shards: Iterable[Shard], left_out: dict[str, list[int]]) -> None:
    """Publish which shards of a folder are its sample set, in order; `left_out`: shard → rows that are not in it."""
    listed = [
        {"file": shard.file, "samples": shard.samples}
        | ({"left_out": rows} if (rows := left_out.get(shard.file)) else {})
        for shard in shards
    ]
    write_json(folder / LISTING, {"shards": listed})


def _listed(folder: Path) -> tuple[list[Shard], dict[str, list[int]]]:
    if not (folder / LISTING).is_file():
        raise DataError(f"{folder} is no sample set: it has no {LISTING}; `ost curate --until ingest` makes data/pool")
    listed = read_json(folder / LISTING)["shards"]
    shards = [Shard(one["file"], one["samples"]) for one in listed]
    return shards, {one["file"]: one["left_out"] for one in listed if "left_out" in one}


def _one_shard(path: Path) -> tuple[list[Shard], dict[str, list[int]]]:
    try:
        return [Shard(path.name, pq.read_metadata(path).num_rows)], {}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no Parquet file of samples: {error}") from error


def _opened(path: Path) -> tuple[pq.ParquetFile, list[int]]:
    """A shard's file, and the row that each of its row groups starts with."""
    file = _open(path)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return file, np.cumsum([0, *sizes])[:-1].tolist()


def _open(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False)  # else each open file would keep what it read last


def _sample(table: pa.Table, row: int) -> Sample:
    (one,) = table.slice(row, 1).select(list(CONTENT)).to_pylist()
    return from_row(one)
