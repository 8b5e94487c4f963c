"""Lineage over MLflow's record: back from a model to the commit, forward from a sample to the models trained on it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from ost.errors import WorkspaceError
from ost.store import read_table
from tasks.tracking import Tracker, number_of, path_of, path_of_tag, tag_of


@dataclass
class Artifact:
    """One artifact in a chain: the run that made it, and what that run read."""

    path: str
    digest: str
    run: Run | None
    """None where no recorded run left these bytes, as for a user's own files."""
    sources: "list[Artifact]" = field(default_factory=list)

    @property
    def commit(self) -> str:
        """Git commit at which the artifact was made; empty where unknown."""
        return self.run.data.tags.get("mlflow.source.git.commit", "") if self.run else ""


@dataclass(frozen=True)
class Selected:
    """One selection that looked at a sample, and the models trained on that selection."""

    subset: str
    """Its key, such as `lookahead-20`."""
    run: Run
    rank: int | None
    """None where the sample was left out."""
    reason: str
    models: list[ModelVersion]


def find_version(tracker: Tracker, name: str) -> ModelVersion | None:
    """The registered version that `name/3` or `name@lookahead-20-B` means, the newest for `name`; None for others.

    Raises WorkspaceError where the model has no such version.
    """
    base, _, number = name.replace("@", "/").partition("/")
    if base != tracker.model_name:
        return None
    versions = tracker.model_versions()
    named = tracker.aliased(number) if number else None
    wanted = number_of(named) if named else number
    found = [version for version in versions if wanted in ("", number_of(version))]
    if not found:
        known = ", ".join(f"{version.version} ({version.tags.get('ost.run')})" for version in versions) or "none yet"
        raise WorkspaceError(f"no version {number or 'at all'} of model {base!r}; versions: {known}")
    return found[-1]


def chain(tracker: Tracker, version: ModelVersion) -> Artifact:
    """Everything that a registered model was made from, walked back by content digest."""
    run = tracker.client.get_run(version.run_id)
    return _artifact(tracker, path_of(version), version.tags["ost.digest"], {}, run)


def uses(tracker: Tracker, sample: str) -> list[Selected]:
    """Every recorded selection that had the sample before it, newest first."""
    found = []
    for run in tracker.runs_with("ost.kind", "select"):
        subset = run.data.tags["ost.stage"].partition("-")[2]
        path = f"selections/{subset}.parquet"
        with tracker.artifact(run.info.run_id, path) as file:
            table = read_table(file)
        rows = table.filter(pc.equal(table["id"], sample)).to_pylist()
        if rows:
            models = _trained_on(tracker, path, run.data.tags[tag_of("out", path)]) if rows[0]["rank"] else []
            found.append(Selected(subset, run, rows[0]["rank"], rows[0]["reason"], models))
    return found


def samples_named(root: Path, own_id: str) -> list[str]:
    """Ids of the samples in data/pool that the user's own id names; it need not be of one alone."""
    if not (root / "data/pool").exists():
        return []
    from ost.data import Dataset  # which loads datasets

    named = pa.array([json.dumps(own_id), json.dumps(own_id, ensure_ascii=False), own_id])  # kept as JSON: "7" or 7
    pool = Dataset(root / "data/pool").table(("id", "own_id"))
    return pool.filter(pc.is_in(pool["own_id"], named))["id"].to_pylist()


def _trained_on(tracker: Tracker, path: str, digest: str) -> list[ModelVersion]:
    runs = tracker.runs_with(tag_of("in", path), digest)
    tuned = [run for run in runs if run.data.tags["ost.stage"].startswith("sft-")]
    return [version for run in tuned for version in tracker.model_versions(run.info.run_id)]


def _artifact(tracker: Tracker, path: str, digest: str, seen: dict, run: Run | None = None) -> Artifact:
    if (path, digest) in seen:
        return seen[path, digest]
    run = run or next(iter(tracker.runs_with(tag_of("out", path), digest)), None)
    found = seen[path, digest] = Artifact(path, digest, run)
    inputs = {} if run is None else run.data.tags
    for tag, value in sorted(inputs.items()):
        if tag.startswith("dvc.in."):
            found.sources.append(_artifact(tracker, path_of_tag(tag), value, seen))
    return found
