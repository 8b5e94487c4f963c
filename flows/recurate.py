"""The recuration flow: what is new is scored, the subset chosen again, and a better model becomes the champion."""

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.curate import stage_task
from flows.session import Session
from ost.config import load_params
from ost.drift import Drift, measure_drift
from ost.store import digest, publish, read_json, read_table, write_json, write_table
from tasks import versioning
from tasks.promotion import Verdict, challenge
from tasks.storage import publish_files
from tasks.tracking import Tracker

FOLDER = "recurations"
"""Where each run leaves what it found, under its time."""


PUBLISHED = ("selections/ost.parquet", "selections/toxic.parquet", "selections/manifest.json")
"""What is uploaded beside the run's own files."""


@dataclass(frozen=True)
class Past:
    """What an earlier run left."""

    name: str
    samples: pa.Table
    """`id, kept, toxic` of its pool."""
    summary: dict


@flow(name="recurate")
def recurate(workspace: str = ".") -> dict:
    """Bring selection and champion up to date with the data; returns the summary. Without new data nothing happens."""
    root = Path(workspace).resolve()
    params = load_params(root / "params.yaml")
    run = params.recurate.run
    last = find_past(root)
    world = ["world"] if params.uses_world else []
    stages = [
        *world,
        "base@target",
        "base@proxy",
        "ingest",
        "warmup",
        "score",
        "select",
        f"sft@{run}",
        f"evaluate@{run}",
    ]
    if last and last.summary["seen"] == _seen(root, run) and _is_current(root, stages):
        return last.summary | {"changed": False}
    with Session(root, flow_run=str(flow_run.id or ""), name="recurate") as session:
        for stage in stages[: stages.index("warmup")]:
            stage_task(stage)(stage, session)
        fresh = find_past(root, last.summary["warmed_up"]) if last else None
        reasons = _score(session, fresh)
        for stage in stages[stages.index("select") :]:
            stage_task(stage)(stage, session)
        tracker = Tracker(root, params)
        verdict = challenge(tracker, params.recurate, lambda: session.run_unversioned("evaluate@champion"))
        summary = _publish(root, last, reasons, verdict, _seen(root, run))
        tracker.log_recuration(session.parent, summary, root / FOLDER / summary["name"])
    _tell(summary)
    return summary


def find_past(root: Path, name: str | None = None) -> Past | None:
    """The run of this name, or the last one; None before the first."""
    names = [name] if name else sorted(path.name for path in (root / FOLDER).glob("2*") if path.suffix != ".part")
    if not names:
        return None
    folder = root / FOLDER / names[-1]
    return Past(folder.name, read_table(folder / "samples.parquet"), read_json(folder / "summary.json"))


def _seen(root: Path, run: str) -> dict[str, str]:
    """Digests of the manifests that end a run; a run that was stopped before it published has left others."""
    manifests = [root / "scores/manifest.json", root / f"evaluations/{run}.manifest.json"]
    return {path.relative_to(root).as_posix(): digest(path) for path in manifests if path.exists()}


def _is_current(root: Path, stages: list[str]) -> bool:
    return not versioning.stale_stages(root) & set(stages) and not _changed_for_proxy(root)


def _score(session: Session, fresh: Past | None) -> list[str]:
    """Score what is new with the proxy as it is, or everything with one warmed up anew; returns why anew, if so.

    `fresh`: the run that the proxy was warmed up in. Until it is warmed up again its stage is frozen, so that new
    samples alone do not make it stale, for `dvc repro` neither.
    """
    root = session.root
    changed = _changed_for_proxy(root)
    reasons = ["there was none"] if fresh is None else []
    reasons += [f"it depends on {', '.join(sorted(changed))}, which changed"] if fresh and changed else []
    if not reasons:
        versioning.freeze(root, "warmup")
        stage_task("score")("score", session)
        reasons = _drift(root, fresh).reasons(session.params.recurate)
    if reasons:
        versioning.thaw(root, "warmup")
        for stage in ("warmup", "score"):
            stage_task(stage)(stage, session)
        versioning.freeze(root, "warmup")
    return reasons


def _changed_for_proxy(root: Path) -> set[str]:
    """What the warm-up depends on and has changed, beside the pool, which it may outlive."""
    return versioning.changed_inputs(root, "warmup") - {"data/pool.parquet"}


def _drift(root: Path, fresh: Past) -> Drift:
    scores = read_table(root / "scores/utility.parquet")
    return measure_drift(scores, fresh.samples["id"], _anchor_loss(root), fresh.summary["anchor_loss"])


def _anchor_loss(root: Path) -> float:
    return read_json(root / "scores/manifest.json")["metrics"]["anchor_loss"]


def _publish(root: Path, last: Past | None, reasons: list[str], verdict: Verdict, seen: dict[str, str]) -> dict:
    """Write what this run found into its folder: summary.json, samples.parquet, and changes.parquet for a person."""
    name = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")
    scores = read_table(root / "scores/utility.parquet", ["id", "toxic"])
    selection = read_table(root / "selections/ost.parquet", ["id", "rank"])
    kept = dict(zip(selection["id"].to_pylist(), pc.is_valid(selection["rank"]).to_pylist(), strict=True))
    samples = scores.append_column("kept", pa.array([kept[name] for name in scores["id"].to_pylist()]))
    changes = _changes(last.samples if last else samples.slice(0, 0), samples)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(changes["change"]).to_pylist()}
    summary = {
        "name": name,
        "changed": True,
        "seen": seen,
        "samples": len(samples),
        "counts": {change: counts.get(change, 0) for change in CHANGES},
        "warmed_up": name if reasons else last.summary["warmed_up"],
        "why_warmed_up": reasons,
        "anchor_loss": _anchor_loss(root),
        "challenge": asdict(verdict) | {"promoted": verdict.promoted, "why": verdict.why},
    }
    with publish(root / FOLDER / name) as part:
        write_table(part / "samples.parquet", samples)
        write_table(part / "changes.parquet", changes)
        write_json(part / "summary.json", summary)
        if address := load_params(root / "params.yaml").recurate.publish:
            # Before this run counts as done: if it fails, the next one tries again.
            selections = {path: root / path for path in PUBLISHED}
            publish_files(selections | {path.name: path for path in sorted(part.iterdir())}, address, name)
    return summary


CHANGES = ("new", "gone", "entered", "left", "turned toxic", "no longer toxic")
"""What can have become of a sample: in the pool, in the subset, in the scores."""


def _changes(before: pa.Table, now: pa.Table) -> pa.Table:
    """`id, change`, a row for each sample and change."""
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


def _tell(summary: dict) -> None:
    """Show the run in Prefect: an artifact to read, and an event that automations can listen to."""
    rows = [f"| {change} | {count:,} |" for change, count in summary["counts"].items()]
    text = ["| samples | |", "|---|---|", *rows, "", summary["challenge"]["why"], *_proxy_lines(summary)]
    create_markdown_artifact("\n".join(text), key="recuration", description=summary["challenge"]["why"])
    event = "ost.promoted" if summary["challenge"]["promoted"] else "ost.kept"
    emit_event(event, resource={"prefect.resource.id": "ost.champion"}, payload=summary)


def _proxy_lines(summary: dict) -> list[str]:
    return [f"The proxy was warmed up: {reason}." for reason in summary["why_warmed_up"]]
