"""What an export tells of itself: a hidden folder in it, which no reader of data looks into."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from ost.errors import DataError
from ost.export.selected import Selected
from ost.store import read_json, read_table, write_json, write_table

FOLDER = ".export"
FACTS = ("rank", "own_id", "file", "position", "tokens")
"""What is kept of each selected sample beside its id, as the pool has it."""


@dataclass(frozen=True)
class Manifest:
    """How an export was made."""

    form: str
    samples: int
    longest_tokens: int
    train_on: str = "all"
    columns: Mapping[str, str] = field(default_factory=dict)
    images: str = "copy"

    def write(self, folder: Path, selected: Selected, changed: Mapping[str, str], left_out: Mapping[str, str]) -> None:
        """Lay it, and a table of the samples in the pool's order, into an export's folder.

        `changed`: id in the pool → id as written, where that is another. `left_out`: id → why. The table has a row
        `id, written, FACTS, pixels, left_out` a sample: `written` is null where it was left out, `pixels` those of its
        largest image.
        """
        ids = selected.facts["id"].to_pylist()
        written = [None if name in left_out else changed.get(name, name) for name in ids]
        samples = {"id": selected.facts["id"], "written": pa.array(written, pa.string())}
        samples |= {name: selected.facts[name] for name in FACTS}
        samples |= {"pixels": selected.pixels, "left_out": pa.array(map(left_out.get, ids), pa.string())}
        (folder / FOLDER).mkdir()
        write_json(folder / FOLDER / "export.json", asdict(self))
        write_table(folder / FOLDER / "samples.parquet", pa.table(samples))


def read_manifest(folder: Path) -> tuple[Manifest, pa.Table]:
    """The manifest of an export and the table of its samples. Raises DataError where the folder is none."""
    if not is_export(folder):
        raise DataError(f"{folder} is no export: it has no {FOLDER}/export.json; `ost export` makes one")
    return Manifest(**read_json(folder / FOLDER / "export.json")), read_table(folder / FOLDER / "samples.parquet")


def is_export(folder: Path) -> bool:
    """Whether an export stands there."""
    return (folder / FOLDER / "export.json").is_file()
