"""What a stage is given: the workspace, its parameters, and a record of every file that it reads and writes."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ost.cost import Cost
from ost.data import Dataset
from ost.errors import WorkspaceError
from ost.store import md5, recover, write_json
from ost.types import Progress, silent
from tasks.settings import Params
from tasks.slots import Slots
from tasks.stages.digests import Digests

if TYPE_CHECKING:  # a stage that trains nothing loads none of it
    from ost.training import Saved


@dataclass
class Outcome:
    """What a stage reports beside the files that it wrote."""

    metrics: dict[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)
    datasets: dict[str, str] = field(default_factory=dict)
    """Content digest of each sample set that the stage read or made."""
    labels: dict[str, str] = field(default_factory=dict)
    """What tells this run from others of its kind, such as the arm; MLflow shows them as parameters."""
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Numbers that changed meanwhile: (step, value) in order."""


@dataclass
class Context:
    """A workspace as one stage sees it. Paths are relative to the workspace's root and written with slashes."""

    root: Path
    stage: str
    """Name as in dvc.yaml: `ingest`, or `sft-lookahead-20-B` for one of several."""
    params: Params
    progress: Progress = silent
    slots: Slots | None = None
    """Devices beside the stage's own, for whatever can use more."""
    inputs: dict[str, Path] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What follows the kind in the stage's name."""
        return self.stage.partition("-")[2]

    def input(self, path: str) -> Path:
        """A file or folder that the stage reads; raises WorkspaceError where it is missing."""
        full = self.root / path
        if not full.exists():
            recover(full)
        if not full.exists():
            raise WorkspaceError(
                f"stage {self.stage} needs {path}, which is missing: run `ost curate`, or the stage that makes it"
            )
        self.inputs[path] = full
        return full

    def output(self, path: str) -> Path:
        """A file or folder that the stage writes."""
        self.outputs[path] = self.root / path
        return self.outputs[path]

    def samples(self, name: str) -> Dataset:
        """The sample set `data/NAME`, an input: `pool`, `anchors` or `benchmark`."""
        return Dataset(self.input(f"data/{name}"))

    def digest(self, path: str) -> str:
        """Digest of a file or folder, as DVC has it."""
        return self._digests.of(self.root / path)

    def saved_training(self, parts: Sequence) -> "Saved":
        """Where this stage's training goes on after a kill; `parts`: all that its outcome depends on, beside code."""
        from ost.training import Saved

        key = md5(json.dumps([*parts, self.versions()]).encode()).hexdigest()
        return Saved(self.root / f".ost/training/{self.stage}.safetensors", key)

    @property
    def _digests(self) -> Digests:
        return Digests(self.root / ".ost/digests.db")

    @staticmethod
    def versions() -> dict[str, str]:
        """Of Python and of the packages that results depend on."""
        packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
        return {"python": platform.python_version()} | packages

    def write_manifest(self, path: str, outcome: Outcome, started: datetime.datetime) -> Path:
        """Publish the manifest: what reruns the stage, what it read and wrote, what it found and cost."""
        manifest = {
            "stage": self.stage,
            "seed": self.params.seed,
            "params": self.params.model_dump(mode="json"),
            "inputs": {name: self._digests.of(full) for name, full in sorted(self.inputs.items())},
            "outputs": {name: self._digests.of(full) for name, full in sorted(self.outputs.items())},
            "metrics": outcome.metrics,
            "warnings": outcome.warnings,
            "datasets": outcome.datasets,
            "labels": outcome.labels,
            "curves": outcome.curves,
            "seconds": outcome.cost.seconds,
            "flops": outcome.cost.flops,
            "started": started.isoformat(timespec="seconds"),
            "git": git_state(self.root),
            "versions": self.versions(),
        }
        full = self.root / path
        write_json(full, manifest)
        return full


_PACKAGES: Sequence[str] = ("ost-pipeline", "torch", "transformers", "datasets")


def git_state(root: Path) -> dict:
    """Commit that the workspace stands at, and whether files differ from it; the commit is empty outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
