"""What the command prints at the end: the arms compared, what they cost, and where to look next."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from rich.table import Table
from rich.tree import Tree

from flows.display import console, say, table
from flows.forecast import show_forecast
from ost.arms import arm_of
from ost.arms.plan import BASE, Training
from ost.errors import WorkspaceError
from ost.report.words import points
from ost.selection.signal import may_claim
from ost.settings import without_userinfo
from ost.store import read_json, read_table
from tasks import versioning
from tasks.forecast import MORE, on_accelerator, tells
from tasks.pipeline import Stage, stages_of
from tasks.plan import Plan
from tasks.record.lineage import Artifact, Selected, chain, find_version, samples_named, uses
from tasks.settings import Params, load_params
from tasks.tracking import Tracker, tracking_uri
from tasks.workers import Workers

UP_TO_DATE, FOLLOWS = "up to date", "follows"
"""States of a stage, beside `to run`."""
NAMED, SHOWN = 20, 5
"""Samples that share an own id: how many are named, and of how many the lineage is shown."""


def arms_table(arms: list[dict]) -> Table:
    """Rows of metrics/arms.json as a table, protocol B first, each arm against Full-SFT under the same protocol."""
    numbers = ("accuracy", "vs full", "samples", "steps", "choose", "train")
    shown = table("The target, fine-tuned on each arm", "arm", "protocol", numbers=numbers)
    first = min((row["protocol"] for row in arms), default="B", key="BA".index)
    for protocol in "BA":
        rows = [row for row in arms if row["protocol"] == protocol and (protocol == first or row["arm"] != BASE)]
        full = next((row["accuracy"] for row in rows if row["arm"] == "full"), None)
        for row in rows:
            shown.add_row(*_cells(row, full), style="bold" if row["arm"] != BASE and arm_of(row["arm"]).utility else "")
        shown.add_section()
    return shown


def _cells(row: dict, full: float | None) -> list[str]:
    against = "" if row["arm"] == "full" or full is None else points(row["accuracy"], full)
    seconds = [f"{row[name]:.0f} s" for name in ("select_seconds", "train_seconds")]
    counts = [f"{row[name]:,}" for name in ("samples", "steps")]
    return [row["label"], row["protocol"], f"{row['accuracy']:.1%}", against, *counts, *seconds]


def show_curation(root: Path, params: Params) -> None:
    """Print the arms table, what the audit found, and where to go from here."""
    rows = read_json(root / "metrics/arms.json")
    console.print(arms_table(rows))
    for key, label in {row["same_as"]: row["label"] for row in rows if row.get("same_as")}.items():
        other = Training.parse(key).subset.label
        say(f"{label} keeps exactly what {other} keeps: one training stands for both")
    say("protocol B: as many steps as Full-SFT (what the subset is worth); A: as many epochs (what it saves)")
    audit = read_json(root / "metrics/audit.json")
    if audit and audit["auroc"] is not None:
        figures = ", ".join(f"{name} {_two(audit[name])}" for name in ("precision", "recall", "auroc"))
        say(f"audit: {audit['wrong_share']:.0%} of the pool is wrong; the toxic flag finds it with {figures}")
    say("\nwhere to look next")
    show_stage(root, params, "report")


def states_of(stages: Sequence[Stage], stale: Collection[str]) -> dict[str, str]:
    """Stage → whether it is to run, as the stale are, follows one that is or that follows, or is up to date."""
    states, unsure = {}, set()
    for stage in stages:
        states[stage.name] = "to run" if stage.name in stale else FOLLOWS if unsure & {*stage.reads} else UP_TO_DATE
        unsure |= {*stage.made} if states[stage.name] != UP_TO_DATE else set()
    return states


def show_plan(root: Path) -> None:
    """Print the stages that a workspace plans, and what has to be done for each."""
    plan, stale = Plan(load_params(root / "params.yaml")), versioning.stale_stages(root)
    shown = table(f"{len(plan.subsets)} subset(s), {len(plan.trainings)} training(s)", "stage", "reads", "state")
    stages = stages_of(root, plan)
    states = states_of(stages, stale)
    for stage in stages:
        state = states[stage.name]
        shown.add_row(stage.name, ", ".join(stage.reads), state, style="dim" if state == UP_TO_DATE else "")
    console.print(shown)
    if FOLLOWS in states.values():
        say(f"{FOLLOWS}: runs where those before it leave something else than last time")
    if "ingest" in states and states["ingest"] == UP_TO_DATE:
        plan.check_tasks(root)
    if not (names := on_accelerator(stages, stale)):
        return
    if tells(root, plan.params):
        with Workers(root, plan.params.compute, lambda *report: None) as workers:
            show_forecast(workers.forecast(names))
    else:
        say(MORE)


def _toxic(root: Path, scores: str) -> list[tuple[str, Path]]:
    """The list of toxic samples, as it may be called: nothing where it is empty, or there is none yet."""
    listed = root / f"{scores}-toxic.parquet"
    if not listed.exists() or not pq.read_metadata(listed).num_rows:
        return []
    tells = may_claim(read_table(root / f"{scores}.parquet", ["id"]))
    return [("the harmful samples" if tells else "flagged, without evidence", listed)]


def show_stage(root: Path, params: Params, stage: str) -> None:
    """Print what a curation that ended at a stage has left, and what to do with it."""
    plan = Plan(params)
    chosen, scores = f"selections/{plan.main.key}.parquet", f"scores/{plan.main.arm.by.name}"
    toxic = _toxic(root, scores)
    subset = ("the chosen samples", root / chosen), *toxic
    model = next((one.key for one in plan.trainings if one.subset == plan.main), "")
    left = {
        "ingest": [
            ("the samples", root / "data/pool"),
            ("what was left out, and why", root / "data/quarantine.parquet"),
        ],
        "warmup": [("the warm proxy", root / "models/proxy-warm")],
        "score": [("the scores", root / f"{scores}.parquet"), *toxic],
        "select": [
            *subset,
            ("as your own records", f"ost export {chosen} --form same --out subset"),
            ("as a trainer takes it", f"ost export {chosen} --form trl --out for-trl"),
        ],
        "sft": [("the models", root / "models/sft")],
        "evaluate": [("the answers", root / "evaluations")],
        "report": [
            ("the report", root / "report/index.html"),
            ("the runs", f"mlflow ui --backend-store-uri {without_userinfo(tracking_uri(root, params.tracking.uri))}"),
            ("what is up to date", "dvc status, dvc dag, dvc metrics show"),
            ("where a model comes from", f"ost lineage {params.tracking.model_name}@{model}"),
            *subset,
        ],
    }
    for what, where in left[stage]:
        say(f"  {what:<27} {where}")


def show_recuration(summary: dict) -> None:
    """Print what a recuration changed, and what came of its challenger."""
    if not summary["changed"]:
        say(f"nothing new since {summary['name']}; {summary['samples']:,} samples")
        return
    for reason in summary["why_warmed_up"]:
        say(f"the proxy was warmed up: {reason}")
    for change, count in summary["counts"].items():
        say(f"{change:<16} {count:>9,}")
    say(summary["challenge"]["why"])
    say(f"which samples: recurations/{summary['name']}/changes.parquet")


def show_comparison(folder: Path) -> None:
    """Print a comparison's table, and where to look next."""
    summary = read_json(folder / "summary.json")
    for protocol in ("B", "A"):
        if own := [entry for entry in summary["entries"] if entry["protocol"] == protocol]:
            console.print(comparison_table(own, f"Protocol {protocol}, {len(summary['seeds'])} seed(s)"))
    if len(summary["seeds"]) < 2:
        say("one seed: no interval, and nothing is told of how small a part is enough; --seeds 0,1,2 adds to it")
    say("gap: (arm − Full-SFT) / (oracle − Full-SFT); cost: choosing and training, of Full-SFT's seconds, FLOPs")
    say(f"the page: {folder / 'index.html'}")


def comparison_table(entries: list[dict], title: str) -> Table:
    """Entries of a summary: accuracy, gain over Full-SFT with its 95 % interval, gap recovered, and cost."""
    numbers = ("kept", "right", "accuracy", "against Full-SFT", "gap", "choose", "train", "cost")
    shown = table(title, "arm", numbers=numbers)
    for entry in entries:
        gain, gap = entry["against"].get("full"), entry["gap_recovery"]
        cells = [
            f"{entry['fraction']:.0%}",
            "" if entry["purity"] is None else f"{entry['purity']:.0%}",
            f"{entry['accuracy']:.1%}",
            _with_interval(gain),
            "" if gap is None else f"{gap['mean']:.2f}",
            f"{entry['select_seconds']:.0f} s",
            f"{entry['train_seconds']:.0f} s",
            ", ".join(f"{entry[name]['mean']:.0%}" for name in ("seconds_ratio", "flops_ratio") if entry[name]),
        ]
        shown.add_row(entry["label"], *cells, style="bold" if entry["ours"] else "")
    return shown


def _with_interval(found: dict | None) -> str:
    """A difference of accuracies in points."""
    if not found or found["mean"] is None:
        return ""
    low, high = found["interval"]
    reach = "" if low is None else f" ({points(low, 0.0)} … {points(high, 0.0)})"
    return f"{points(found['mean'], 0.0)}{reach}"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def show_lineage(name: str, root: Path) -> None:
    """Print the chain behind a registered model, or the models in front of a sample."""
    tracker = Tracker(root, load_params(root / "params.yaml"))
    version = find_version(tracker, name)
    if version:
        accuracy = version.tags.get("ost.accuracy", "not evaluated")
        say(f"model {version.name}/{version.version}: run {version.tags['ost.run']}, accuracy {accuracy}")
        console.print(lineage_tree(chain(tracker, version)))
        return
    own = [] if (found := uses(tracker, name)) else samples_named(root, name)
    if own:
        say(f"your own id {name} is that of {len(own):,} sample(s) of data/pool: {', '.join(own[:NAMED])}" + _more(own))
    told = {name: found} if found else {sample: uses(tracker, sample) for sample in own[:SHOWN]}
    if not any(told.values()):
        raise WorkspaceError(
            f"{name!r} is neither the registered model {tracker.model_name!r} nor a sample of a recorded selection, by "
            "its id or your own; both stand in data/pool, and refused samples in data/quarantine.parquet"
        )
    for sample, own_uses in told.items():
        console.print(uses_table(sample, own_uses))
    if len(own) > SHOWN:
        say(f"the first {SHOWN} are shown; `ost lineage ID` tells of any other")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""


def lineage_tree(artifact: Artifact) -> Tree:
    """A model's chain, each artifact with its digest, the run that made it and the commit."""
    tree = Tree(_label(artifact))
    _grow(tree, artifact, set())
    return tree


def _grow(tree: Tree, artifact: Artifact, seen: set[tuple[str, str]]) -> None:
    for source in artifact.sources:
        known = (source.path, source.digest) in seen
        seen.add((source.path, source.digest))
        branch = tree.add(_label(source) + (" [dim](above)[/]" if known and source.sources else ""))
        if not known:
            _grow(branch, source, seen)


def _label(artifact: Artifact) -> str:
    if artifact.run is None:
        return f"{artifact.path} [dim]md5 {artifact.digest[:12]}[/] (not made by a recorded run)"
    tags = artifact.run.data.tags
    dirty = "+changes" if tags.get("ost.git_dirty") == "true" else ""
    made = f"{tags['ost.stage']}, run {artifact.run.info.run_id[:8]}, seed {artifact.run.data.params.get('seed')}"
    commit = f"commit {artifact.commit[:10] or 'none'}{dirty}"
    return f"[bold]{artifact.path}[/] [dim]md5 {artifact.digest[:12]}[/] ← {made}, {commit}"


def uses_table(sample: str, found: list[Selected]) -> Table:
    """The selections that a sample went through, and the models trained on it."""
    shown = Table("subset", "rank", "reason", "selected by run", "models trained on it", title=f"sample {sample}")
    for use in found:
        models = [
            f"{model.name}/{model.version} ({model.tags.get('ost.run')}, {_accuracy(model)})" for model in use.models
        ]
        rank = "–" if use.rank is None else str(use.rank)
        shown.add_row(use.subset, rank, use.reason, use.run.info.run_id[:8], "\n".join(models) or "none")
    return shown


def _accuracy(model) -> str:
    value = model.tags.get("ost.accuracy")
    return f"accuracy {float(value):.1%}" if value else "not evaluated"
