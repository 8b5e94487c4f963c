"""TRL: Parquet shards that `datasets` loads, images inside. Tried with TRL 1.16."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ost.data.shards import GROUP_BYTES, SHARD_BYTES, size_of
from ost.export.form import Limit, run_in, without_loss, write_yaml
from ost.export.kept import Row
from ost.export.survey import Survey

TRAINER = "TRL"
DATA = "data"
GUESSED = False
LIMITS = (Limit("max_length", 1024, "the end is cut, its answer first, and the sample trains on nothing", exact=True),)

_SHARD = "train-{:05d}-of-{:05d}.parquet"
"""What `datasets` takes for the split `train` without being told."""


def refusal(messages: Sequence[dict]) -> str | None:
    """See TrainerForm: nothing is, since images are parts, not marks."""
    return None


def said(messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
    """See TrainerForm."""
    return messages if survey.learns_last else without_loss(messages)


def write(rows: Iterable[Row], folder: Path, survey: Survey) -> None:
    """See TrainerForm.

    Where the last answer alone is learned, in every sample, it is the `completion` of a `prompt`: TRL learns that and
    no more, whatever the template. Else they are `messages`.
    """
    (folder / DATA).mkdir(parents=True)
    schema = _features(survey).arrow_schema
    shards = _Shards(folder / DATA, schema)
    for row in rows:
        shards.add(_record(row, survey), size_of(row.sample))
    shards.close()


def sidecar(folder: Path, out: Path, survey: Survey) -> list[str]:
    """See TrainerForm."""
    # Not by its folder: `datasets` takes "." for no name.
    here = {"path": "parquet", "data_files": f"{DATA}/train-*.parquet"}
    settings = {"datasets": [here], "max_length": None}
    if not survey.learns_last:
        settings["assistant_only_loss"] = True
    line = "trl sft --config sft.yaml --model_name_or_path MODEL --output_dir ../trained"
    room = f"{survey.kept.longest} tokens; without max_length none is cut, by TRL's default of 1024 answers are"
    write_yaml(folder / "sft.yaml", f"In this folder: {line}\nThe longest sample has {room}.", settings)
    return [run_in(out, line)]


def notes(survey: Survey) -> list[str]:
    """See TrainerForm."""
    if survey.learns_last:
        return []
    found = [
        "samples with several answers are `messages`: assistant_only_loss needs a chat template that marks answers, "
        "which TRL has for most families, and stops where it has none; without it the questions are learned too"
    ]
    if not survey.learns_all:
        count = survey.counts["context"]
        found.append(f"{count:,} samples have answers that are context alone; {TRAINER} learns them too")
    return found


def _features(survey: Survey) -> datasets.Features:
    text = datasets.Value("string")
    turn = {"role": text, "content": datasets.List({"type": text, "text": text})}
    if survey.counts["reasoning"]:
        turn["reasoning_content"] = text
    turns = ("prompt", "completion") if survey.learns_last else ("messages",)
    # A column of images makes TRL ask for a processor, which a model of texts alone has not.
    images = {"images": datasets.List(datasets.Image())} if survey.images else {}
    return datasets.Features(
        {"id": text, "own_id": text, "task": text} | images | {name: datasets.List(turn) for name in turns}
    )


def _record(row: Row, survey: Survey) -> dict:
    messages = without_loss(row.sample.messages)
    record = {"id": row.sample.id, "own_id": row.own_id, "task": row.sample.task}
    record["images"] = [{"bytes": image, "path": None} for image in row.sample.images]
    if survey.learns_last:
        return record | {"prompt": messages[:-1], "completion": messages[-1:]}
    return record | {"messages": messages}


def _codecs(schema: pa.Schema) -> dict[str, str]:
    """A codec for each column as Parquet names them: images are compressed as they are."""
    pq.write_table(schema.empty_table(), buffer := io.BytesIO())
    columns = pq.read_metadata(buffer).schema
    names = [columns.column(at).path for at in range(len(columns))]
    return {name: "none" if name.endswith(".bytes") else "zstd" for name in names}


class _Shards:
    """Parquet files in a folder, cut by bytes; no more than a row group is held."""

    def __init__(self, folder: Path, schema: pa.Schema):
        self.folder, self.schema = folder, schema
        self._files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict] = []
        self._held = self._size = 0

    def add(self, row: dict, size: int) -> None:
        if self._rows and self._held + size > GROUP_BYTES:
            self._end_group()
        if self._size and self._size + size > SHARD_BYTES:
            self._end_shard()
        self._rows.append(row)
        self._held += size
        self._size += size

    def close(self) -> None:
        """End the last shard, and name each by how many there are."""
        self._end_shard()
        for number, file in enumerate(self._files):
            file.rename(self.folder / _SHARD.format(number, len(self._files)))

    def _end_group(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._files.append(self.folder / f"{len(self._files)}.part")
            self._writer = pq.ParquetWriter(
                self._files[-1], self.schema, compression=_codecs(self.schema), use_dictionary=False
            )
        columns = [
            pa.array([row[name] for row in self._rows], self.schema.field(name).type) for name in self.schema.names
        ]
        self._writer.write_table(pa.table(columns, self.schema))
        self._rows, self._held = [], 0

    def _end_shard(self) -> None:
        self._end_group()
        if self._writer:
            self._writer.close()
        self._writer, self._size = None, 0
