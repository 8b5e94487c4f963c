"""Pools as users have them: records, images, files in every form; and ingestion of three sources of which a test
replaces some."""

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ost.data import FEATURES, Sample, write_samples
from ost.encoding import IGNORE, Encoder
from ost.ingestion import Ingested, ingest
from ost.ingestion.gate import Gate
from ost.settings import Data

SETTINGS = Data(max_tokens=64, max_pixels=10_000)
ASKED, SAID = {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "1"}


def encoded(size: tuple[int, int] = (32, 16), form: str = "PNG", seed: int = 0, **options) -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form, **options)
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


PNG = encoded()


def record(question: str = "What is it?", answer: str = "1", **changes) -> dict:
    """A good record, then changed."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"images": [data_url(PNG)], "messages": messages} | changes


def talk(*texts: str, **changes) -> dict:
    """A record without images of many turns, the user's and the assistant's in turn."""
    turns = zip(("user", "assistant") * len(texts), texts, strict=False)
    return {"messages": [{"role": role, "content": text} for role, text in turns]} | changes


def write_jsonl(folder: Path, records: Iterable[dict | bytes], name: str = "samples.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


class Intake:
    """Ingests three sources, some of them replaced: by samples, by JSONL records, or by the path of a source."""

    def __init__(self, folder: Path, clean: Mapping[str, Path], model: Path):
        self.folder, self.clean, self.model = folder, clean, model

    @property
    def into(self) -> Path:
        """Folder of the sample sets."""
        return self.folder / "data"

    def __call__(
        self, settings: Data = SETTINGS, pool=None, anchors=None, benchmark=None, into: Path | None = None, **options
    ) -> Ingested:
        given = {"pool": pool, "anchors": anchors, "benchmark": benchmark}
        paths = [self._stored(name, content) for name, content in given.items()]
        result = ingest(*paths, self.model, into or self.into, settings, **options)
        for name, counts in result.counts.items():
            assert counts["read"] == counts["kept"] + counts["quarantined"], "a record is lost, or counted twice"
            assert counts["quarantined"] == sum(counts["reasons"].values())
            assert counts["kept"] == len(result[name])
        return result

    @staticmethod
    def settings(**changes) -> Data:
        """The usual limits, some of them changed."""
        return SETTINGS.model_copy(update=changes)

    def _stored(self, name: str, content) -> Path:
        if content is None:
            return self.clean[name]
        if isinstance(content, Path):
            return content
        if isinstance(content[0], Sample):
            return write_samples(self.folder / "sources" / name / "samples.parquet", content)
        return write_jsonl(self.folder / "sources" / name, content)


def everything(result: Ingested) -> dict:
    """All that a run gives, the bytes of its sets too."""
    sets = {name: {file.name: file.read_bytes() for file in one.folder.iterdir()} for name, one in result.taken.items()}
    return {"sets": sets, "quarantine": result.quarantine, "counts": result.counts, "warnings": result.warnings}


class Watched:
    """Ingests with a memory, and tells which records were judged and which shards were written."""

    def __init__(self, folder: Path, clean_files, monkeypatch):
        self.take = Intake(folder, clean_files, None)
        self.folder, self.pool, self.memory = folder, folder / "pool", folder / "memory"
        self.judged: list[tuple[str, int]] = []
        judge = Gate.judge
        monkeypatch.setattr(Gate, "judge", lambda gate, *args: self.judged.append(args[2:]) or judge(gate, *args))

    def __call__(self, settings=SETTINGS, **options):
        """The result; it is what a run without memory gives, byte for byte."""
        self.judged.clear()
        before = self.shards()
        result = self.take(settings, **{"pool": self.pool, "memory": self.memory} | options)
        mine, self.new = list(self.judged), self.shards() - before
        fresh = self.take(settings, **{"pool": self.pool} | options | {"memory": None, "into": self.folder / "fresh"})
        assert everything(fresh) == everything(result)
        self.judged[:] = mine
        return result

    def shards(self) -> set[tuple[str, int]]:
        """Names of the pool's shards, and when each was written."""
        found = (self.take.into / "pool").glob("*.parquet")
        return {(file.name, file.stat().st_mtime_ns) for file in found}

    def write(self, *records: dict | bytes, name: str = "rows.jsonl") -> Path:
        return write_jsonl(self.pool / Path(name).parent, records, Path(name).name)


def shown(encoder: Encoder, sample: Sample) -> str:
    """What the model is given, without its end and with IMAGE for an image."""
    ids = encoder.training([sample])["input_ids"][0]
    text = encoder.tokenizer.decode(ids).replace("<|vision_start|>", "").replace("<|vision_end|>", "")
    while "<|image_pad|><|image_pad|>" in text:
        text = text.replace("<|image_pad|><|image_pad|>", "<|image_pad|>")
    return text.replace("<|image_pad|>", "IMAGE")


def learned(encoder: Encoder, sample: Sample) -> list[str]:
    """The stretches of text that a loss is taken on."""
    labels, spans = encoder.training([sample])["labels"][0].tolist(), [[]]
    for label in labels:
        if label == IGNORE:
            spans.append([])
        else:
            spans[-1].append(label)
    return [encoder.tokenizer.decode(span) for span in spans if span]


# --- forms: each writes samples below a folder that is not yet there, and returns the source's address


def as_record(sample: Sample, images: Sequence[object]) -> dict:
    return {"images": list(images), "messages": list(sample.messages), "task": sample.task, "id": "a user's own"}


def beside(folder: Path, samples: Iterable[Sample]) -> list[dict]:
    """Records whose images are written as files below the folder."""
    records = []
    for number, sample in enumerate(samples):
        names = [f"images/{number}-{place}.png" for place in range(len(sample.images))]
        for name, image in zip(names, sample.images, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(image)
        records.append(as_record(sample, names))
    return records


def jsonl_form(folder: Path, samples: list[Sample]) -> Path:
    return write_jsonl(folder, beside(folder, samples))


def json_form(folder: Path, samples: list[Sample]) -> Path:
    path = folder / "pool.json"
    path.parent.mkdir()
    path.write_text(json.dumps(beside(folder, samples), indent=1))
    return path


def gzip_form(folder: Path, samples: list[Sample]) -> Path:
    path = write_jsonl(folder, beside(folder, samples))
    path.with_name("pool.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return folder


def data_url_form(folder: Path, samples: list[Sample]) -> Path:
    return write_jsonl(folder, [as_record(sample, map(data_url, sample.images)) for sample in samples])


def base64_form(folder: Path, samples: list[Sample]) -> Path:
    coded = ([base64.b64encode(image).decode() for image in sample.images] for sample in samples)
    return write_jsonl(folder, [as_record(sample, images) for sample, images in zip(samples, coded, strict=True)])


def parquet_form(folder: Path, samples: list[Sample]) -> Path:
    return write_samples(folder / "samples.parquet", samples)


def shards_form(folder: Path, samples: list[Sample]) -> Path:
    numbers = range(len(samples))
    for number in [*numbers[1::2], *numbers[::2]]:  # in no order that a file system might list them in by itself
        write_samples(folder / f"{number:04}.parquet", [samples[number]])
    return folder


def raw_bytes_form(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir()
    columns = {
        "images": [list(sample.images) for sample in samples],
        "messages": [list(sample.messages) for sample in samples],
        "task": [sample.task for sample in samples],
    }
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    return folder / "samples.parquet"


def datasets_form(folder: Path, samples: list[Sample]) -> Path:
    rows = [as_record(sample, [{"bytes": image, "path": None} for image in sample.images]) for sample in samples]
    shown = ("images", "messages", "task")
    decoding = {name: FEATURES[name] for name in shown} | {"images": datasets.List(datasets.Image())}
    rows = [{name: row[name] for name in shown} for row in rows]
    datasets.Dataset.from_list(rows, features=datasets.Features(decoding)).save_to_disk(str(folder))
    return folder


def tar_form(folder: Path, samples: list[Sample], name: str = "shard.tar") -> Path:
    folder.mkdir()
    members = []
    for number, sample in enumerate(samples):
        members += [(f"{number:05}.{place}.png", image) for place, image in enumerate(sample.images)]
        told = {"messages": list(sample.messages), "task": sample.task}
        members.append((f"{number:05}.json", json.dumps(told).encode()))
    return write_tar(folder / name, members)


def tar_gz_form(folder: Path, samples: list[Sample]) -> Path:
    return tar_form(folder, samples, "shard.tar.gz")


FORMS = {
    form.__name__.removesuffix("_form"): form
    for form in (
        *(jsonl_form, json_form, gzip_form, data_url_form, base64_form, parquet_form, shards_form, raw_bytes_form),
        *(datasets_form, tar_form, tar_gz_form),
    )
}
