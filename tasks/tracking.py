"""MLflow: a parent run for each curation, a child run for each stage, the registered models. Alone in importing mlflow.

Everything recorded here comes from manifests, so the flow and `dvc repro` leave the same record. Runs are addressed by
explicit ids: MLflow's active runs are bound to a thread, and the flow has many.
"""

import datetime
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from ost.config import Params
from ost.errors import WorkspaceError

SAMPLE_FOLDERS = ("world/", "data/")
"""Outputs that are not uploaded: samples are DVC's, and MLflow is told their digests."""


os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


class Tracker:
    """The MLflow record of one workspace."""

    def __init__(self, root: Path, params: Params):
        self.root, self.model_name = root, params.tracking.model_name
        self.client = MlflowClient(tracking_uri(root, params.tracking.uri))
        self.experiment = self._experiment(params.tracking.experiment)

    def open(
        self, git: dict, orchestrator: str, tags: dict[str, str] | None = None, name: str = "curate", parent: str = ""
    ) -> str:
        """Start a run that others hang under, and return its id; `orchestrator` is `prefect` or `dvc`."""
        named = {MLFLOW_RUN_NAME: f"{name} ({orchestrator})", "ost.orchestrator": orchestrator}
        named |= {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        return self.client.create_run(self.experiment, tags=named | _git_tags(git) | (tags or {})).info.run_id

    def join(self, git: dict, orchestrator: str, params_digest: str) -> str:
        """The unfinished parent run with these parameters at this commit, or a new one."""
        tags = {"ost.params": params_digest, "ost.orchestrator": orchestrator, **_git_tags(git)}
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        running = self.client.search_runs(
            [self.experiment], f"{wanted} and attributes.status = 'RUNNING'", max_results=1
        )
        return running[0].info.run_id if running else self.open(git, orchestrator, {"ost.params": params_digest})

    def close(self, run_id: str, succeeded: bool = True) -> None:
        """End a run."""
        self.client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")

    def note_reuse(self, parent: str, stages: list[str]) -> None:
        """Say in the parent run which stages were up to date and not run again."""
        self.client.set_tag(parent, "ost.reused", ", ".join(stages))

    def log_summary(self, run_id: str, summary: dict, folder: Path) -> None:
        """What a comparison found, in its own run: figures of each subset, and the files to look at."""
        figures = {}
        for entry in summary["entries"]:
            name = f"{entry['subset']}-{entry['protocol']}"
            figures[f"accuracy/{name}"] = entry["accuracy"]
            if entry["gap_recovery"]:
                figures[f"gap_recovery/{name}"] = entry["gap_recovery"]["mean"]
        self._log_figures(run_id, figures)
        for file in ("summary.json", "metrics/arms.json", "accuracy.png", "cost.png", "index.html"):
            self.client.log_artifact(run_id, str(folder / file))

    def log_recuration(self, run_id: str, summary: dict, folder: Path) -> None:
        """What a recuration changed, in its own run."""
        figures = {f"samples/{change}": float(count) for change, count in summary["counts"].items()}
        figures |= {"samples": float(summary["samples"]), "promoted": float(summary["challenge"]["promoted"])}
        self._log_figures(run_id, figures)
        self.client.set_tag(run_id, "ost.verdict", summary["challenge"]["why"])
        self.client.log_artifacts(run_id, str(folder), "recuration")

    def _log_figures(self, run_id: str, figures: dict[str, float]) -> None:
        now = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
        self.client.log_batch(run_id, [Metric(name, value, now, 0) for name, value in figures.items()])

    def record(self, manifest: dict, parent: str, flow_run: str = "") -> str:
        """Make a finished stage a child run, from its manifest; returns its id."""
        run = self.start(manifest, parent, flow_run)
        self.fill(run, manifest)
        return run

    def start(self, manifest: dict, parent: str, flow_run: str = "") -> str:
        """Begin a stage's child run; returns its id."""
        tags = {MLFLOW_PARENT_RUN_ID: parent, MLFLOW_RUN_NAME: _name(manifest)}
        tags |= {"ost.stage": manifest["stage"], "ost.flow_run": flow_run}
        return self.client.create_run(self.experiment, tags=tags | _git_tags(manifest["git"])).info.run_id

    def fill(self, run_id: str, manifest: dict) -> None:
        """Log what a manifest holds, params, metrics, digests, datasets and artifacts, and end its run.

        Doing so again, after a transfer that broke off, changes nothing.
        """
        stage = manifest["stage"]
        self._log_batch(run_id, manifest)
        self._log_datasets(run_id, manifest)
        for path in manifest["outputs"]:
            if not path.startswith(SAMPLE_FOLDERS):
                self._upload(run_id, path)
        if stage.startswith("sft@"):
            self._register(run_id, manifest)
        if stage.startswith("evaluate@"):
            self._note_accuracy(manifest)
        self.close(run_id)

    def runs_with(self, tag: str, value: str) -> list[Run]:
        """Child runs that carry a tag with this value, newest first."""
        return self._all_runs(f"tags.`{tag}` = '{value}'")

    def stage_runs(self, stage: str) -> list[Run]:
        """Child runs of a stage, newest first."""
        return self.runs_with("ost.stage", stage)

    def model_versions(self, run_id: str | None = None) -> list[ModelVersion]:
        """Registered versions of the fine-tuned target, oldest first; those of one run where it is given."""
        wanted = f"name = '{self.model_name}'" + (f" and run_id = '{run_id}'" if run_id else "")
        found = self.client.search_model_versions(wanted, max_results=10_000)
        return sorted(found, key=lambda version: int(version.version))

    def aliased(self, alias: str) -> ModelVersion | None:
        """The registered version that an alias means, such as `champion` or a run's name; None where it means none."""
        try:
            return self.client.get_model_version_by_alias(self.model_name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def name(self, version: ModelVersion, alias: str) -> None:
        """Let an alias mean this version from now on."""
        self.client.set_registered_model_alias(self.model_name, alias, version.version)

    def tag(self, version: ModelVersion, key: str, value: str) -> None:
        """Note something with a registered version."""
        self.client.set_model_version_tag(self.model_name, version.version, key, value)

    def artifact(self, run_id: str, path: str) -> Path:
        """A run's artifact as a local file."""
        return Path(self.client.download_artifacts(run_id, path))

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        local = self.client.tracking_uri.startswith("sqlite:")
        return self.client.create_experiment(name, str(self.root / "mlruns") if local else None)

    def _all_runs(self, wanted: str) -> list[Run]:
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment], wanted, page_token=token)
            found, token = found + list(page), page.token
            if not token:
                return found

    def _log_batch(self, run_id: str, manifest: dict) -> None:
        started = int(datetime.datetime.fromisoformat(manifest["started"]).timestamp() * 1000)
        numbers = {**manifest["metrics"], "seconds": manifest["seconds"], "flops": manifest["flops"]}
        metrics = [Metric(name, value, started, 0) for name, value in numbers.items()]
        params = [
            Param(name, value) for name, value in [*_flat(manifest["params"]), *manifest.get("labels", {}).items()]
        ]
        digests = [
            RunTag(tag_of(way, path), digest)
            for way, side in (("in", "inputs"), ("out", "outputs"))
            for path, digest in manifest[side].items()
        ]
        warnings = [RunTag("ost.warnings", "\n".join(manifest["warnings"]))] if manifest["warnings"] else []
        self.client.log_batch(run_id, metrics, params, digests + warnings)

    def _log_datasets(self, run_id: str, manifest: dict) -> None:
        inputs = [
            DatasetInput(
                Dataset(name=name, digest=digest, source_type="dvc", source=f'{{"samples": "{name}"}}'),
                [InputTag(MLFLOW_DATASET_CONTEXT, manifest["stage"].partition("@")[0])],
            )
            for name, digest in manifest["datasets"].items()
        ]
        self.client.log_inputs(run_id, inputs)

    def _upload(self, run_id: str, path: str) -> None:
        full, parent = self.root / path, Path(path).parent.as_posix()
        if full.is_dir():
            self.client.log_artifacts(run_id, str(full), path)
        else:
            self.client.log_artifact(run_id, str(full), "" if parent == "." else parent)

    def _register(self, run_id: str, manifest: dict) -> None:
        """Let the run's name mean these weights: a new version where they are new, else the version that they have."""
        (path, digest), *_ = manifest["outputs"].items()
        name = manifest["stage"].partition("@")[2]
        known = [version for version in self.model_versions() if version.tags.get("ost.digest") == digest]
        if not known:
            tags = {"ost.digest": digest, "ost.run": name, "ost.seed": str(manifest["seed"])}
            known = [self._new_version(run_id, path, tags)]
        self.name(known[-1], name)

    def _new_version(self, run_id: str, path: str, tags: dict[str, str]) -> ModelVersion:
        try:
            self.client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.create_model_version(self.model_name, f"runs:/{run_id}/{path}", run_id, tags=tags)

    def _note_accuracy(self, manifest: dict) -> None:
        digests = set(manifest["inputs"].values())
        for version in self.model_versions():
            if version.tags.get("ost.digest") in digests:
                accuracy = f"{manifest['metrics']['accuracy']:.4f}"
                self.tag(version, "ost.accuracy", accuracy)


def tag_of(way: str, path: str) -> str:
    """The tag by which a run names a file that it read (`in`) or wrote (`out`): MLflow takes not every character."""
    plain = _NO_TAG.sub("_", path.replace("://", ":/", 1))
    return posixpath.normpath(f"dvc.{way}.{plain}")[:MOST_TAG]


def path_of_tag(tag: str) -> str:
    """The path that such a tag names, as far as it can be told."""
    return re.sub(r"^(\w+):/(?!/)", r"\1://", tag.split(".", 2)[2])


_NO_TAG = re.compile(r"[^/\w.\- :]")
MOST_TAG = 250
"""Characters of a tag's name in MLflow."""


def number_of(version: ModelVersion) -> str:
    """Number of a registered version; MLflow's own calls give now a text, now a number."""
    return str(version.version)


def path_of(version: ModelVersion) -> str:
    """Path of a registered version's weights among the artifacts of its run."""
    return version.source.split("/", 2)[2]


def tracking_uri(root: Path, configured: str) -> str:
    """Address of the tracking store: MLFLOW_TRACKING_URI, else the configured one, a relative SQLite path under `root`.

    Raises WorkspaceError for a `file:` store, which MLflow 3 refuses.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured
    if uri.startswith("file:") or "://" not in uri:
        raise WorkspaceError(
            f"MLflow keeps no runs in plain files any more ({uri}); use sqlite:///mlflow.db or a server"
        )
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(root / uri.removeprefix('sqlite:///')).resolve()}"
    return uri


def _name(manifest: dict) -> str:
    """The stage; a trial by what it trains on, and its seed."""
    kind, _, key = manifest["stage"].partition("@")
    return f"{key}, seed {manifest['seed']}" if kind.startswith("trial") else manifest["stage"]


def _git_tags(git: dict) -> dict[str, str]:
    return {MLFLOW_GIT_COMMIT: git["commit"], "ost.git_dirty": str(git["dirty"]).lower()}


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
