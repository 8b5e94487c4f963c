"""What recurations leave: who was in pool and subset, what has changed since, and whether the proxy still holds."""

import datetime
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.plan import Training
from ost.audit.drift import Drift, measure_drift
from ost.errors import ConfigError
from ost.store import digest, publish, read_json, read_table, remove, write_json, write_table
from tasks import versioning
from tasks.pipeline import manifest_path, needed_for, stages_of, write_pipeline
from tasks.plan import Plan
from tasks.record.champion import Verdict
from tasks.settings import Params
from tasks.stages.digests import Digests
from tasks.stages.run import value_of
from tasks.storage import publish_files

FOLDER = "recurations"
"""Where each run leaves what it found, under its time."""

PENDING = "pending.json"
"""In a run's folder, which steps behind its verdict are still to be done; gone once all are."""
STEPS = ("promote", "upload", "log", "tell")
"""What a run does once it is decided, in this order: in the registry, object storage, MLflow's run, and Prefect."""

CHANGES = ("new", "gone", "entered", "left", "turned toxic", "no longer toxic")
"""What can have become of a sample: in the pool, in the subset, in the scores."""


@dataclass(frozen=True)
class Past:
    """What an earlier run left."""

    name: str
    samples: pa.Table
    """`id, toxic, kept` of its pool."""
    summary: dict
    pending: tuple[str, ...] = ()
    """Those of STEPS that it was stopped before."""

    def is_of(self, seen: Mapping[str, str]) -> bool:
        """Whether the workspace is as that run left it; `seen` is what `Recuration.seen` says now."""
        return self.summary["seen"] == seen


@dataclass(frozen=True)
class Recuration:
    """The runs of one workspace."""

    root: Path
    params: Params

    @property
    def training(self) -> Training:
        """The training whose model is the challenger; raises ConfigError for one that is not curated by utility."""
        plan, key = Plan(self.params), self.params.recurate.training
        for one in plan.trainings:
            if one.key == key and one.subset.arm.utility:
                return one
        known = ", ".join(one.key for one in plan.trainings if one.subset.arm.utility) or "none"
        raise ConfigError(f"recurate.training is {key!r}, and those curated by utility are: {known}")

    @property
    def stages(self) -> list[str]:
        """All that the challenger takes, in order."""
        planned = stages_of(self.root, Plan(self.params).check())
        return [stage.name for stage in needed_for(planned, {f"evaluate-{self.training.key}"})]

    @property
    def scores(self) -> str:
        """Name of the scores that the challenger's subset is chosen by."""
        return self.training.subset.arm.by.name

    def unchanged(self) -> dict | None:
        """The last run's summary, marked as unchanged, if nothing has become new since."""
        last = self.past()
        if not last or last.pending or not last.is_of(self.seen()):
            return None
        write_pipeline(self.root)  # else DVC does not know of a parameter that params.yaml has got since
        if versioning.stale_stages(self.root) & set(self.stages) or self.changed_for_proxy():
            return None
        return last.summary | {"changed": False}

    def changed_for_proxy(self) -> list[str]:
        """What the warm proxy was made with and is no longer so, beside the pool, which it may outlive.

        By its own manifest: DVC's record says of a proxy that is kept that it belongs to the new pool.
        """
        record = self.root / manifest_path("warmup")
        if not record.exists():
            return [manifest_path("warmup")]
        manifest, digests = read_json(record), Digests(self.root / ".ost/digests.db")
        (stage,) = [one for one in stages_of(self.root, Plan(self.params)) if one.name == "warmup"]
        now = self.params.model_dump(mode="json")
        then = manifest["inputs"] | manifest["outputs"]
        files = [path for path, md5 in then.items() if path != "data/pool" and digests.of(self.root / path) != md5]
        return [*files, *(name for name in stage.params if value_of(name, now) != value_of(name, manifest["params"]))]

    def warmed_up_since(self, last: Past) -> bool:
        """Whether the proxy is another than after the last run: one that was stopped, or a curation, warmed it up."""
        return last.summary.get("proxy", self._proxy()) != self._proxy()

    def is_of_this_pool(self) -> bool:
        """Whether the proxy was warmed up with the pool as it is."""
        return read_json(self.root / manifest_path("warmup"))["inputs"]["data/pool"] == digest(self.root / "data/pool")

    def past(self, name: str | None = None) -> Past | None:
        """The run of this name, or the last one; None where there is none."""
        found = sorted(path.name for path in (self.root / FOLDER).glob("2*") if path.suffix != ".part")
        if not found or (name and name not in found):
            return None
        folder = self.root / FOLDER / (name or found[-1])
        pending = tuple(read_json(folder / PENDING)) if (folder / PENDING).exists() else ()
        return Past(folder.name, read_table(folder / "samples.parquet"), read_json(folder / "summary.json"), pending)

    def seen(self) -> dict[str, str]:
        """Digests of the manifests that end a run; one that was stopped before it published has left others."""
        paths = [manifest_path(f"score-{self.scores}"), manifest_path(f"evaluate-{self.training.key}")]
        return {path: digest(self.root / path) for path in paths if (self.root / path).exists()}

    def drift(self, fresh: Past) -> Drift:
        """How far anchors and new samples have moved from those of the run that the proxy was warmed up in."""
        scores = read_table(self._table)
        return measure_drift(scores, fresh.samples["id"], self._anchor_loss(), fresh.summary["anchor_loss"])

    def write(self, last: Past | None, why_warmed_up: list[str], verdict: Verdict) -> None:
        """Write what this run found, beside `last`: all at once, and with it that nothing has come of it yet.

        summary.json, samples.parquet, changes.parquet and PENDING, under the run's own name, and with
        `recurate.publish` a copy of all that is to be uploaded.
        """
        name = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
        samples = self._samples()
        changes = changes_between(last.samples if last else samples.slice(0, 0), samples)
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(changes["change"]).to_pylist()}
        summary = {
            "name": name,
            "changed": True,
            "seen": self.seen(),
            "samples": len(samples),
            "counts": {change: counts.get(change, 0) for change in CHANGES},
            "warmed_up": name if why_warmed_up else last.summary["warmed_up"],
            "why_warmed_up": why_warmed_up,
            "proxy": self._proxy(),
            "anchor_loss": self._anchor_loss(),
            "challenge": asdict(verdict) | {"promoted": verdict.promoted, "why": verdict.why},
        }
        with publish(self.root / FOLDER / name) as part:
            write_table(part / "samples.parquet", samples)
            write_table(part / "changes.parquet", changes)
            write_json(part / "summary.json", summary)
            write_json(part / PENDING, STEPS)
            for path in self._published if self.params.recurate.publish else ():
                (part / path).parent.mkdir(exist_ok=True)
                shutil.copyfile(self.root / path, part / path)

    def upload(self, name: str) -> None:
        """Upload what a run left to `recurate.publish`, if that is set; doing so again changes nothing there."""
        if not self.params.recurate.publish:
            return
        folder = self.root / FOLDER / name
        found = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(PENDING)]
        files = {file.relative_to(folder).as_posix(): file for file in found}
        publish_files(files, self.params.recurate.publish, name)

    def strike_off(self, name: str, step: str) -> None:
        """Remember that a step of a run is done; with the last one nothing is left to do."""
        file = self.root / FOLDER / name / PENDING
        left = [one for one in read_json(file) if one != step]
        if left:
            write_json(file, left)
        else:
            file.unlink()

    def discard(self, name: str) -> None:
        """Forget a run of which nothing has come: the next one decides anew."""
        remove(self.root / FOLDER / name)

    def _proxy(self) -> str:
        """What tells the warm proxy of one run from another's: its manifest's digest; empty where there is none."""
        record = self.root / manifest_path("warmup")
        return digest(record) if record.exists() else ""

    @property
    def _published(self) -> tuple[str, ...]:
        """What is uploaded beside a run's own files."""
        return (
            self._selection,
            f"scores/{self.scores}-toxic.parquet",
            manifest_path(f"select-{self.training.subset.key}"),
        )

    @property
    def _selection(self) -> str:
        return f"selections/{self.training.subset.key}.parquet"

    @property
    def _table(self) -> Path:
        return self.root / f"scores/{self.scores}.parquet"

    def _samples(self) -> pa.Table:
        scores = read_table(self._table, ["id", "toxic"])
        selection = read_table(self.root / self._selection, ["id", "rank"])
        kept = dict(zip(selection["id"].to_pylist(), pc.is_valid(selection["rank"]).to_pylist(), strict=True))
        return scores.append_column("kept", pa.array([kept[name] for name in scores["id"].to_pylist()], pa.bool_()))

    def _anchor_loss(self) -> float:
        return read_json(self.root / manifest_path(f"score-{self.scores}"))["metrics"]["anchor_loss"]


def changes_between(before: pa.Table, now: pa.Table) -> pa.Table:
    """`id, change`, a row for each sample and change, from two tables `id, kept, toxic`."""
    then, present = ({row["id"]: row for row in table.to_pylist()} for table in (before, now))
    absent = {"kept": False, "toxic": False}
    found = []
    for name in {**then, **present}:
        old, new = then.get(name, absent), present.get(name, absent)
        happened = {
            "new": name not in then,
            "gone": name not in present,
            "entered": new["kept"] and not old["kept"],
            "left": old["kept"] and not new["kept"],
            "turned toxic": new["toxic"] and not old["toxic"] and name in then,
            "no longer toxic": old["toxic"] and not new["toxic"] and name in present,
        }
        found += [(name, change) for change in CHANGES if happened[change]]
    return pa.table({"id": [name for name, _ in found], "change": [change for _, change in found]})
