"""TRL: Parquet shards that `datasets` loads, images inside. Tried with TRL 1.16."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ost.data.shards import GROUP_BYTES, SHARD_BYTES, size_of
from ost.export.forms.form import Limit
from ost.export.forms.trainer import TrainerForm, cut, run_in, without_loss, write_sft_yaml
from ost.export.selected import Row, Survey

_SHARD = "train-{:05d}-of-{:05d}.parquet"
"""What `datasets` takes for the split `train` without being told."""


class Trl(TrainerForm):
    name, place = "trl", 10
    trainer = "TRL"
    data = "data"
    limits = (
        Limit("max_length", 1024, "the end is cut, its answer first, and the sample trains on nothing", exact=True),
    )

    def said(self, messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
        return messages if survey.learns_last else without_loss(messages)

    def write_samples(self, rows: Iterable[Row], folder: Path, survey: Survey) -> None:
        """Where the last answer alone is learned, in every sample, it is the `completion` of a `prompt`.

        TRL learns that and no more, whatever the template. Else they are `messages`.
        """
        (folder / self.data).mkdir()
        schema, files = _features(survey).arrow_schema, []
        for number, shard in enumerate(cut(rows, _size, SHARD_BYTES)):
            files.append(folder / self.data / f"{number}.part")
            with pq.ParquetWriter(files[-1], schema, compression=_codecs(schema), use_dictionary=False) as writer:
                for group in cut(shard, _size, GROUP_BYTES):
                    records = [_record(row, survey) for row in group]
                    writer.write_table(pa.Table.from_pylist(records, schema))
        for number, file in enumerate(files):
            file.rename(file.with_name(_SHARD.format(number, len(files))))

    def says_context(self, survey: Survey) -> bool:
        return survey.learns_last or not survey.with_context

    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        # Not by its folder: `datasets` takes "." for no name.
        here = {"path": "parquet", "data_files": f"{self.data}/train-*.parquet"}
        settings = {"datasets": [here], "max_length": None}
        if not survey.learns_last:
            settings["assistant_only_loss"] = True
        line = "trl sft --config sft.yaml --model_name_or_path MODEL --output_dir ../trained"
        cuts = "without max_length none is cut, by TRL's default of 1024 answers are"
        write_sft_yaml(folder, settings, line, f"{survey.selected.longest} tokens; {cuts}")
        return run_in(out, line)

    def notes(self, survey: Survey) -> list[str]:
        if survey.learns_last:
            return []
        several = (
            "samples with several answers are `messages`: assistant_only_loss needs a chat template that marks "
            "answers, which TRL has for most families, and stops where it has none; without it the questions are "
            "learned too"
        )
        return [several, *super().notes(survey)]


def _features(survey: Survey) -> datasets.Features:
    text = datasets.Value("string")
    turn = {"role": text, "content": datasets.List({"type": text, "text": text})}
    if survey.with_reasoning:
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


def _size(row: Row) -> int:
    return size_of(row.sample)


def _codecs(schema: pa.Schema) -> dict[str, str]:
    """A codec for each column as Parquet names them: images are compressed as they are."""
    pq.write_table(schema.empty_table(), buffer := io.BytesIO())
    columns = pq.read_metadata(buffer).schema
    return {column.path: "none" if column.path.endswith(".bytes") else "zstd" for column in columns}
