"""What a run will take, before it begins: time, memory and disk, and what to set where it does not fit."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ost.errors import ConfigError
from ost.settings import BUILTIN, LLAVA
from ost.store import read_json
from tasks.pipeline import ON_ACCELERATOR, Stage, manifest_path
from tasks.settings import Params

LARGE = 20_000
"""Samples of a pool from which on a curation is worth a probe on a CPU too."""
COPIES = 3
"""Of a model that is kept: in the workspace, in DVC's cache, and in MLflow's store."""
GIB = 2**30
MORE = "more is known once the pool is there: ost curate --until ingest, then ost plan"


@dataclass(frozen=True)
class Row:
    """One line of a forecast: a stage, or several of a kind."""

    what: str
    samples: int
    """That go through a model."""
    rate: float | None
    """Samples a second; None where nobody knows."""
    seconds: float | None
    """On the devices of the run."""
    memory: int | None
    """Bytes of the device's memory: as measured, or at least; None where nobody knows."""
    note: str = ""


@dataclass(frozen=True)
class Forecast:
    """What the stages of a run that use the accelerator will take."""

    rows: tuple[Row, ...]
    memory: int
    """Bytes that a device has."""
    disk: int
    """Bytes that models will take on the disk, with their copies."""
    free_disk: int
    notes: tuple[str, ...] = ()
    """What to do to know more, or to make it fit."""
    refusals: tuple[str, ...] = ()
    """What cannot fit, whatever the batches, and the remedy."""

    def check(self) -> None:
        """Raise ConfigError where a stage cannot fit."""
        if self.refusals:
            raise ConfigError("this run does not fit:\n" + "\n".join(f"  {one}" for one in self.refusals))


def on_accelerator(stages: Sequence[Stage], stale: set[str]) -> list[str]:
    """Names of the stages to run that a forecast is about; bases are fetched, or small."""
    return [one.name for one in stages if one.kind in ON_ACCELERATOR and one.kind != "base" and one.name in stale]


def is_worth_it(root: Path, accelerated: bool) -> bool:
    """Whether a curation should be foretold: a probe on a CPU takes longer than small pools do."""
    return accelerated or pool_size(root) > LARGE


def tells(root: Path, params: Params) -> bool:
    """Whether a forecast has anything to go by: a pool, or models that are not to be made here first."""
    named = {params.models.target, params.models.proxy}
    return pool_size(root) > 0 or not named <= {BUILTIN, LLAVA}


def pool_size(root: Path) -> int:
    """Samples of the pool; 0 before it is ingested."""
    manifest = root / manifest_path("ingest")
    return int(read_json(manifest)["metrics"]["pool_samples"]) if manifest.exists() else 0


def free_disk(root: Path) -> int:
    """Bytes that are left where the workspace lies."""
    return shutil.disk_usage(root).free


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """The stages by what a line of the forecast is called: each scoring by itself, others by their kind."""
    found: dict[str, list[str]] = {}
    for name in names:
        kind = name.partition("-")[0]
        found.setdefault(name if kind == "score" else kind, []).append(name)
    return found
