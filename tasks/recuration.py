"""What recurations leave: who was in pool and subset, what has changed since, and whether the proxy still holds."""

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.config import Params
from ost.drift import Drift, measure_drift
from ost.store import digest, publish, read_json, read_table, write_json, write_table
from tasks import versioning
from tasks.promotion import Verdict
from tasks.runs import Run
from tasks.storage import publish_files

FOLDER = "recurations"
"""Where each run leaves what it found, under its time."""

CHANGES = ("new", "gone", "entered", "left", "turned toxic", "no longer toxic")
"""What can have become of a sample: in the pool, in the subset, in the scores."""


@dataclass(frozen=True)
class Past:
    """What an earlier run left."""

    name: str
    samples: pa.Table
    """`id, toxic, kept` of its pool."""
    summary: dict

    def is_of(self, seen: Mapping[str, str]) -> bool:
        """Whether the workspace is as that run left it; `seen` is what `Recuration.seen` says now."""
        return self.summary["seen"] == seen


@dataclass(frozen=True)
class Recuration:
    """The runs of one workspace."""

    root: Path
    params: Params

    @property
    def stages(self) -> tuple[list[str], list[str]]:
        """The stages before the proxy's warm-up, and those after the scores."""
        world, run = ["world"] if self.params.uses_world else [], self.params.recurate.run
        return [*world, "base@target", "base@proxy", "ingest"], ["select", f"sft@{run}", f"evaluate@{run}"]

    def unchanged(self) -> dict | None:
        """The last run's summary, marked as unchanged, if nothing has become new since."""
        last = self.past()
        if not last or not last.is_of(self.seen()):
            return None
        own = {"warmup", "score"}.union(*self.stages)
        if versioning.stale_stages(self.root) & own or self.changed_for_proxy():
            return None
        return last.summary | {"changed": False}

    def changed_for_proxy(self) -> set[str]:
        """What the warm-up depends on and has changed, beside the pool, which it may outlive."""
        return versioning.changed_inputs(self.root, "warmup") - {"data/pool"}

    def past(self, name: str | None = None) -> Past | None:
        """The run of this name, or the last one; None where there is none."""
        found = sorted(path.name for path in (self.root / FOLDER).glob("2*") if path.suffix != ".part")
        if not found or (name and name not in found):
            return None
        folder = self.root / FOLDER / (name or found[-1])
        return Past(folder.name, read_table(folder / "samples.parquet"), read_json(folder / "summary.json"))

    def seen(self) -> dict[str, str]:
        """Digests of the manifests that end a run; one that was stopped before it published has left others."""
        paths = ("scores/manifest.json", f"evaluations/{self.params.recurate.run}.manifest.json")
        return {path: digest(self.root / path) for path in paths if (self.root / path).exists()}

    def drift(self, fresh: Past) -> Drift:
        """How far anchors and new samples have moved from those of the run that the proxy was warmed up in."""
        scores = read_table(self.root / "scores/utility.parquet")
        return measure_drift(scores, fresh.samples["id"], self._anchor_loss(), fresh.summary["anchor_loss"])

    def publish(self, last: Past | None, why_warmed_up: list[str], verdict: Verdict) -> dict:
        """Write and upload what this run found, beside `last`; returns the summary.

        summary.json, samples.parquet and changes.parquet, under the run's own name. The upload (`recurate.publish`)
        comes before the run counts as done: where it fails, the next run tries again.
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
            "anchor_loss": self._anchor_loss(),
            "challenge": asdict(verdict) | {"promoted": verdict.promoted, "why": verdict.why},
        }
        with publish(self.root / FOLDER / name) as part:
            write_table(part / "samples.parquet", samples)
            write_table(part / "changes.parquet", changes)
            write_json(part / "summary.json", summary)
            if self.params.recurate.publish:
                paths = (self._selection, "selections/toxic.parquet", "selections/manifest.json")
                files = {path: self.root / path for path in paths} | {path.name: path for path in part.iterdir()}
                publish_files(files, self.params.recurate.publish, name)
        return summary

    @property
    def _selection(self) -> str:
        return f"selections/{Run.parse(self.params.recurate.run).arm}.parquet"

    def _samples(self) -> pa.Table:
        scores = read_table(self.root / "scores/utility.parquet", ["id", "toxic"])
        selection = read_table(self.root / self._selection, ["id", "rank"])
        kept = dict(zip(selection["id"].to_pylist(), pc.is_valid(selection["rank"]).to_pylist(), strict=True))
        return scores.append_column("kept", pa.array([kept[name] for name in scores["id"].to_pylist()], pa.bool_()))

    def _anchor_loss(self) -> float:
        return read_json(self.root / "scores/manifest.json")["metrics"]["anchor_loss"]


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
