"""MLflow: a parent run for each curation, a child run for each stage, the registered models. Alone in importing mlflow.

Everything recorded here comes from manifests, so the flow and `dvc repro` leave the same record. Runs are addressed by
explicit ids: MLflow's active runs are bound to a thread, and the flow has many.
"""

import datetime
import os
import posixpath
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from ost.errors import WorkspaceError
from ost.settings import without_userinfo
from ost.store import remove
from tasks.settings import Params

SAMPLE_FOLDERS = ("world/", "data/")
"""Outputs that are not uploaded: samples are DVC's, and MLflow is told their digests."""
BASES = ("models/target", "models/proxy", "models/judge")
"""Models that are DVC's too, unless `tracking.models` is `all`; the warm proxy is among them."""


DOWNLOAD = "download-"
"""Starts the name of a folder under .ost/ that holds an artifact for as long as it is looked at."""
OLDEST_DOWNLOAD = 24 * 3600
"""Seconds after which nobody is looking any more."""


class Opening(TypedDict):
    """A run that others hang under, as it is told before a server has been asked for it: as plain values for JSON."""

    tags: dict[str, str]
    known_by: list[str]
    """Names of the tags by which it is found again while it is unfinished."""
    started: int
    """Milliseconds since the epoch."""
    parent: NotRequired["Opening"]
    """The run that it hangs under itself."""


def opening(
    git: dict,
    orchestrator: str,
    tags: dict[str, str] | None = None,
    name: str = "curate",
    parent: Opening | None = None,
    params: str = "",
) -> Opening:
    """A run of a flow (`orchestrator`: `prefect`), which is its own, or of `dvc`.

    `params`: digest of the parameters of a `dvc repro`, whose stages know of one another by that and the commit alone.
    """
    own = {MLFLOW_RUN_NAME: f"{name} ({orchestrator})", "ost.orchestrator": orchestrator} | _git_tags(git)
    known = {"ost.params": params} if params else {"ost.key": uuid.uuid4().hex}
    known_by = [*known, *(["ost.orchestrator", *_git_tags(git)] if params else [])]
    made = Opening(tags=own | known | (tags or {}), known_by=known_by, started=time.time_ns() // 1_000_000)
    return made | {"parent": parent} if parent else made


class Tracker:
    """The MLflow record of one workspace. The server is asked when it is needed first, and not before."""

    def __init__(self, root: Path, params: Params):
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self.root, self.model_name = root, params.tracking.model_name
        self._left_out = SAMPLE_FOLDERS if params.tracking.models == "all" else (*SAMPLE_FOLDERS, *BASES)
        self._uri, self._experiment_name = tracking_uri(root, params.tracking.uri), params.tracking.experiment
        self._joined: dict[str, str] = {}

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's own client of the store."""
        return MlflowClient(self._uri)

    @cached_property
    def experiment(self) -> str:
        """Id of the experiment that all runs are of, which is made if need be."""
        if found := self.client.get_experiment_by_name(self._experiment_name):
            return found.experiment_id
        local = self.client.tracking_uri.startswith("sqlite:")
        try:
            return self.client.create_experiment(self._experiment_name, str(self.root / "mlruns") if local else None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another workspace has been quicker
                raise
            return self.client.get_experiment_by_name(self._experiment_name).experiment_id

    def answers(self) -> bool:
        """Whether the server, or the database, can be spoken to just now."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception:  # of whatever kind: sockets, certificates, databases
            return False
        return True

    def open(self, git: dict, orchestrator: str, tags: dict[str, str] | None = None, name: str = "curate") -> str:
        """Start a run that others hang under, and return its id; see `opening`."""
        return self.joined(opening(git, orchestrator, tags, name))

    def joined(self, told: Opening) -> str:
        """Id of the unfinished run that was opened so; it is started where there is none."""
        key = " and ".join(f"tags.`{name}` = '{told['tags'][name]}'" for name in told["known_by"])
        if key not in self._joined:
            unfinished = f"{key} and attributes.status = 'RUNNING'"
            running = self.client.search_runs([self.experiment], unfinished, max_results=1)
            self._joined[key] = running[0].info.run_id if running else self._start(told)
        return self._joined[key]

    def _start(self, told: Opening) -> str:
        above = {MLFLOW_PARENT_RUN_ID: self.joined(told["parent"])} if "parent" in told else {}
        return self.client.create_run(self.experiment, told["started"], told["tags"] | above).info.run_id

    def close(self, run_id: str, succeeded: bool = True) -> None:
        """End a run."""
        self.client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")
        self._joined = {key: run for key, run in self._joined.items() if run != run_id}  # a finished one is not joined

    def note_reuse(self, parent: str, stages: list[str]) -> None:
        """Tag a parent run with the stages that were up to date and not run again."""
        self.client.set_tag(parent, "ost.reused", ", ".join(stages))

    def log_summary(self, run_id: str, summary: dict, folder: Path) -> None:
        """Log what a comparison found in its own run: figures of each subset, and the files to look at."""
        figures = {}
        for entry in summary["entries"]:
            name = f"{entry['subset']}-{entry['protocol']}"
            figures[f"accuracy/{name}"] = entry["accuracy"]
            if entry["gap_recovery"]:
                figures[f"gap_recovery/{name}"] = entry["gap_recovery"]["mean"]
        self._log_metrics(run_id, figures)
        for file in ("summary.json", "metrics/arms.json", "accuracy.png", "cost.png", "index.html"):
            self.client.log_artifact(run_id, str(folder / file))

    def log_recuration(self, run_id: str, summary: dict, folder: Path) -> None:
        """Log what a recuration changed in its own run."""
        figures = {f"samples/{change}": float(count) for change, count in summary["counts"].items()}
        figures |= {"samples": float(summary["samples"]), "promoted": float(summary["challenge"]["promoted"])}
        self._log_metrics(run_id, figures)
        self.client.set_tag(run_id, "ost.verdict", summary["challenge"]["why"])
        for file in ("summary.json", "samples.parquet", "changes.parquet"):
            self.client.log_artifact(run_id, str(folder / file), "recuration")

    def record(self, manifest: dict, parent: str, flow_run: str = "") -> str:
        """Make a finished stage a child run, from its manifest; returns its id."""
        run = self.start(manifest, parent, flow_run)
        self.fill(run, manifest)
        return run

    def start(self, manifest: dict, parent: str, flow_run: str = "") -> str:
        """Begin a stage's child run; returns its id."""
        stage, kind, key = _parts(manifest)
        name = f"{key}, seed {manifest['seed']}" if kind == "trial" else stage
        tags = {MLFLOW_PARENT_RUN_ID: parent, MLFLOW_RUN_NAME: name}
        tags |= {"ost.stage": stage, "ost.kind": kind, "ost.flow_run": flow_run}
        return self.client.create_run(self.experiment, tags=tags | _git_tags(manifest["git"])).info.run_id

    def fill(self, run_id: str, manifest: dict) -> None:
        """Log what a manifest holds, params, metrics, digests, datasets and artifacts, and end its run.

        Doing so again, after a transfer that broke off, changes nothing.
        """
        _, kind, _ = _parts(manifest)
        self._log_manifest(run_id, manifest)
        for path in self.uploaded(manifest):
            self._upload(run_id, path)
        if kind == "sft":
            self._register(run_id, manifest)
        if kind == "evaluate":
            self._note_accuracy(manifest)
        self.close(run_id)

    def uploaded(self, manifest: dict) -> dict[str, str]:
        """The outputs of a stage that MLflow keeps a copy of, with their digests."""
        return {path: md5 for path, md5 in manifest["outputs"].items() if not path.startswith(self._left_out)}

    def runs_with(self, tag: str, value: str) -> list[Run]:
        """Child runs that carry a tag with this value, newest first."""
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", page_token=token)
            found, token = found + list(page), page.token
            if not token:
                return found

    def model_versions(self, run_id: str | None = None) -> list[ModelVersion]:
        """Registered versions of the fine-tuned target, oldest first; those of one run where it is given."""
        wanted = f"name = '{self.model_name}'" + (f" and run_id = '{run_id}'" if run_id else "")
        found = self.client.search_model_versions(wanted, max_results=10_000)
        return sorted(found, key=lambda version: int(version.version))

    def versions_of(self, digest: str, training: str | None = None) -> list[ModelVersion]:
        """Registered versions with these weights, oldest first; those of one training where its key is given."""
        tags = {"ost.digest": digest} | ({"ost.run": training} if training else {})
        return [version for version in self.model_versions() if tags.items() <= version.tags.items()]

    def aliased(self, alias: str) -> ModelVersion | None:
        """The registered version with an alias, such as `champion` or a training's key; None where there is none."""
        try:
            return self.client.get_model_version_by_alias(self.model_name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Set an alias of a registered version, in place of whatever it meant before."""
        self.client.set_registered_model_alias(self.model_name, alias, version.version)

    def tag(self, version: ModelVersion, key: str, value: str) -> None:
        """Set a tag of a registered version."""
        self.client.set_model_version_tag(self.model_name, version.version, key, value)

    def model_tag(self, key: str) -> str:
        """A tag of the registered model itself, all versions together; empty where it has none."""
        return self.client.get_registered_model(self.model_name).tags.get(key, "")

    def tag_model(self, key: str, value: str) -> None:
        """Set a tag of the registered model itself."""
        self.client.set_registered_model_tag(self.model_name, key, value)

    @contextmanager
    def artifact(self, run_id: str, path: str) -> Iterator[Path]:
        """A run's artifact as a local file or folder, which is gone behind the block."""
        held = self.root / ".ost"
        held.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=held, prefix=DOWNLOAD) as folder:
            yield Path(self.client.download_artifacts(run_id, path, folder))

    def _log_metrics(self, run_id: str, values: dict[str, float], at: str | None = None, **more: list) -> None:
        """Log numbers as of an ISO time, else of now; `more`: params and tags that are logged with them."""
        moment = _milliseconds(at or datetime.datetime.now(datetime.UTC).isoformat())
        metrics = [Metric(name, value, moment, 0) for name, value in values.items()]
        self.client.log_batch(run_id, metrics, **more)

    def _log_manifest(self, run_id: str, manifest: dict) -> None:
        """Log a manifest's numbers, parameters, digests, warnings and datasets."""
        sides = (("in", "inputs"), ("out", "outputs"))
        tags = {tag_of(way, path): digest for way, side in sides for path, digest in manifest[side].items()}
        tags |= {"ost.warnings": "\n".join(manifest["warnings"])} if manifest["warnings"] else {}
        self._log_metrics(
            run_id,
            {**manifest["metrics"], "seconds": manifest["seconds"], "flops": manifest["flops"]},
            manifest["started"],
            params=[Param(*one) for one in [*flat(manifest["params"]), *manifest.get("labels", {}).items()]],
            tags=[RunTag(*one) for one in tags.items()],
        )
        self._log_curves(run_id, manifest.get("curves", {}), manifest["started"])
        context = [InputTag(MLFLOW_DATASET_CONTEXT, _parts(manifest)[1])]
        datasets = [
            Dataset(name=name, digest=digest, source_type="dvc", source=f'{{"samples": "{name}"}}')
            for name, digest in manifest["datasets"].items()
        ]
        self.client.log_inputs(run_id, [DatasetInput(dataset, context) for dataset in datasets])

    def _log_curves(self, run_id: str, curves: dict[str, list], at: str) -> None:
        """Log numbers that have changed with the step, as of an ISO time."""
        moment = _milliseconds(at)
        for name, points in curves.items():
            for start in range(0, len(points), MOST_METRICS):
                some = points[start : start + MOST_METRICS]
                self.client.log_batch(run_id, [Metric(name, value, moment, step) for step, value in some])

    def _upload(self, run_id: str, path: str) -> None:
        full, parent = self.root / path, Path(path).parent.as_posix()
        if full.is_dir():
            self.client.log_artifacts(run_id, str(full), path)
        else:
            self.client.log_artifact(run_id, str(full), "" if parent == "." else parent)

    def _register(self, run_id: str, manifest: dict) -> None:
        """Give the training's key, as an alias, to these weights: to a new version where they are new to the training.

        Of two trainings that come to the same weights each has a version of its own: lineage is by training.
        """
        (path, digest), *_ = manifest["outputs"].items()
        _, _, name = _parts(manifest)
        tags = {"ost.digest": digest, "ost.run": name}
        known = self.versions_of(digest, name)
        tags |= {"ost.seed": str(manifest["seed"])}
        self.set_alias(known[-1] if known else self._new_version(run_id, path, tags), name)

    def _new_version(self, run_id: str, path: str, tags: dict[str, str]) -> ModelVersion:
        try:
            self.client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.create_model_version(self.model_name, f"runs:/{run_id}/{path}", run_id, tags=tags)

    def _note_accuracy(self, manifest: dict) -> None:
        """Tag the version that was evaluated with its accuracy."""
        for version in self.model_versions():
            if version.tags.get("ost.digest") in manifest["inputs"].values():
                self.tag(version, "ost.accuracy", f"{manifest['metrics']['accuracy']:.4f}")


def _milliseconds(at: str) -> int:
    """An ISO time as MLflow counts it."""
    return int(datetime.datetime.fromisoformat(at).timestamp() * 1000)


def sweep_downloads(root: Path) -> None:
    """Remove what processes have left in a workspace that were killed while they looked at an artifact."""
    for folder in (root / ".ost").glob(f"{DOWNLOAD}*"):
        if time.time() - folder.stat().st_mtime > OLDEST_DOWNLOAD:
            remove(folder)


_NO_TAG = re.compile(r"[^/\w.\- :]")
MOST_METRICS = 1000
"""Numbers that MLflow takes at once."""
MOST_TAG = 250
"""Characters of a tag's name in MLflow."""


def tag_of(way: str, path: str) -> str:
    """The tag by which a run names a file that it read (`in`) or wrote (`out`): MLflow takes not every character."""
    plain = _NO_TAG.sub("_", path.replace("://", ":/", 1))
    return posixpath.normpath(f"dvc.{way}.{plain}")[:MOST_TAG]


def path_of_tag(tag: str) -> str:
    """The path that such a tag names, as far as it can be told."""
    return re.sub(r"^(\w+):/(?!/)", r"\1://", tag.split(".", 2)[2])


def number_of(version: ModelVersion) -> str:
    """Number of a registered version, which some of MLflow's calls give as text and others as a number."""
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
            f"MLflow keeps no runs in plain files any more ({without_userinfo(uri)}); use sqlite:///mlflow.db or a "
            "server"
        )
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(root / uri.removeprefix('sqlite:///')).resolve()}"
    return uri


def _parts(manifest: dict) -> tuple[str, str, str]:
    """The stage, its kind, and its key, such as sft-full-B, sft, full-B."""
    kind, _, key = manifest["stage"].partition("-")
    return manifest["stage"], kind, key


def _git_tags(git: dict) -> dict[str, str]:
    return {MLFLOW_GIT_COMMIT: git["commit"], "ost.git_dirty": str(git["dirty"]).lower()}


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested parameters as MLflow keeps them: `evaluate.metric` and its value as text."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
