"""What an export tells of itself: a hidden folder in it, which no reader of data looks into."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from ost.errors import DataError
from ost.export.kept import Kept
from ost.store import read_json, read_table, write_json, write_table

FOLDER = ".export"
SAMPLES = pa.schema(
    [
        ("id", pa.string()),  # in the pool
        ("written", pa.string()),  # as the form says it; null where the sample was left out
        ("rank", pa.int32()),
        ("own_id", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("tokens", pa.int32()),
        ("pixels", pa.int64()),  # of its largest image
        ("left_out", pa.string()),  # why
    ]
)
"""What is kept of each chosen sample, in the pool's order."""


@dataclass(frozen=True)
class Manifest:
    """How an export was made."""

    form: str
    samples: int
    longest_tokens: int
    train_on: str = "all"
    columns: Mapping[str, str] = field(default_factory=dict)
    images: str = "copy"

    def write(
        self,
        folder: Path,
        kept: Kept,
        changed: Mapping[str, str] = MappingProxyType({}),
        left_out: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Lay it, and a table of the samples, into an export's folder.

        `changed`: id in the pool → id as written, where that is another. `left_out`: id → why.
        """
        ids = kept.facts["id"].to_pylist()
        written = [None if name in left_out else changed.get(name, name) for name in ids]
        why = [left_out.get(name) for name in ids]
        found = {"written": pa.array(written), "pixels": pa.array(kept.pixels), "left_out": pa.array(why, pa.string())}
        columns = [found[name] if name in found else kept.facts[name] for name in SAMPLES.names]
        (folder / FOLDER).mkdir()
        write_json(folder / FOLDER / "export.json", asdict(self))
        write_table(folder / FOLDER / "samples.parquet", pa.table(columns, names=SAMPLES.names).cast(SAMPLES))


def read_manifest(folder: Path) -> tuple[Manifest, pa.Table]:
    """The manifest of an export and the table of its samples. Raises DataError where the folder is none."""
    if not is_export(folder):
        raise DataError(f"{folder} is no export: it has no {FOLDER}/export.json; `ost export` makes one")
    return Manifest(**read_json(folder / FOLDER / "export.json")), read_table(folder / FOLDER / "samples.parquet")


def is_export(folder: Path) -> bool:
    """Whether an export stands there."""
    return (folder / FOLDER / "export.json").is_file()
