"""What the command prints at the end: the arms compared, what they cost, and where to look next."""

from pathlib import Path

from rich import box
from rich.table import Table
from rich.tree import Tree

from flows.display import console
from ost.selection import arm_label
from ost.store import read_json
from tasks.lineage import Link, Use


def arms_table(arms: list[dict]) -> Table:
    """Rows of metrics/arms.json as a table, protocol B first, each arm against Full-SFT under the same protocol."""
    table = Table(title="The target, fine-tuned on each arm", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    table.add_column("protocol")
    for name in ("accuracy", "vs full", "samples", "steps", "choose", "train"):
        table.add_column(name, justify="right", no_wrap=True)
    for protocol in ("B", "A"):
        rows = [row for row in arms if row["protocol"] == protocol and (protocol == "B" or row["arm"] != "base")]
        full = next(row["accuracy"] for row in rows if row["arm"] == "full")
        for row in rows:
            table.add_row(*_cells(row, full), style="bold" if row["arm"] == "ost" else "")
        table.add_section()
    return table


def _cells(row: dict, full: float) -> list[str]:
    against = "" if row["arm"] == "full" else f"{100 * (row['accuracy'] - full):+.1f}"
    seconds = [f"{row[name]:.0f} s" for name in ("select_seconds", "train_seconds")]
    counts = [f"{row[name]:,}" for name in ("samples", "steps")]
    return [
        arm_label(row["arm"], row["fraction"]),
        row["protocol"],
        f"{row['accuracy']:.1%}",
        against,
        *counts,
        *seconds,
    ]


def show_curation(root: Path, tracking: str) -> None:
    """Print the arms table, what the audit found, and where to go from here."""
    console.print(arms_table(read_json(root / "metrics/arms.json")))
    console.print("protocol B: as many steps as Full-SFT (what the subset is worth); A: as many epochs (what it saves)")
    audit = read_json(root / "metrics/audit.json")
    if audit and audit["auroc"] is not None:
        figures = ", ".join(f"{name} {_two(audit[name])}" for name in ("precision", "recall", "auroc"))
        console.print(f"audit: {audit['wrong_share']:.0%} of the pool is wrong; the toxic flag finds it with {figures}")
    console.print("\nwhere to look next")
    for what, where in {
        "the report": f"{root / 'report/index.html'}",
        "the runs": f"mlflow ui --backend-store-uri {tracking}",
        "what is up to date": "dvc status, dvc dag, dvc metrics show",
        "where a model comes from": "ost lineage ost-target@ost-B",
        "the harmful samples": f"{root / 'selections/toxic.parquet'}",
    }.items():
        console.print(f"  {what:<25} {where}", highlight=False, soft_wrap=True)


def show_stage(root: Path, stage: str) -> None:
    """Print what a curation that ended at a stage has left, and what to do with it."""
    left = {
        "ingest": [("the samples", "data/pool"), ("what was left out, and why", "data/quarantine.parquet")],
        "warmup": [("the warm proxy", "models/proxy-warm")],
        "score": [("the scores", "scores/utility.parquet")],
        "select": [
            ("the subset", "selections/ost.parquet"),
            ("the harmful samples", "selections/toxic.parquet"),
            ("as your own records", "ost export selections/ost.parquet --form same --out subset"),
            ("as a trainer takes it", "ost export selections/ost.parquet --form trl --out for-trl"),
        ],
        "sft": [("the models", "models/sft")],
        "evaluate": [("the answers", "evaluations")],
    }
    for what, where in left[stage]:
        shown = where if where.startswith("ost ") else root / where
        console.print(f"  {what:<27} {shown}", highlight=False, soft_wrap=True)


def show_recuration(summary: dict) -> None:
    """Print what a recuration changed, and what came of its challenger."""
    if not summary["changed"]:
        console.print(f"nothing new since {summary['name']}; {summary['samples']:,} samples", highlight=False)
        return
    for reason in summary["why_warmed_up"]:
        console.print(f"the proxy was warmed up: {reason}", highlight=False, soft_wrap=True)
    for change, count in summary["counts"].items():
        console.print(f"{change:<16} {count:>9,}", highlight=False)
    console.print(summary["challenge"]["why"], highlight=False, soft_wrap=True)
    console.print(f"which samples: recurations/{summary['name']}/changes.parquet", highlight=False, soft_wrap=True)


def show_comparison(folder: Path) -> None:
    """Print a comparison's table, and where to look next."""
    summary = read_json(folder / "summary.json")
    for protocol in ("B", "A"):
        if own := [entry for entry in summary["entries"] if entry["protocol"] == protocol]:
            console.print(comparison_table(own, f"Protocol {protocol}, {len(summary['seeds'])} seed(s)"))
    console.print(
        "gap: (arm − Full-SFT) / (oracle − Full-SFT); cost: choosing and training, of Full-SFT's seconds, FLOPs"
    )
    console.print(f"the page: {folder / 'index.html'}", highlight=False, soft_wrap=True)


def comparison_table(entries: list[dict], title: str) -> Table:
    """Entries of a summary: accuracy, gain over Full-SFT with its 95 % interval, gap recovered, and cost."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    for name in ("kept", "right", "accuracy", "against Full-SFT", "gap", "choose", "train", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
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
        table.add_row(entry["label"], *cells, style="bold" if entry["ours"] else "")
    return table


def _with_interval(found: dict | None) -> str:
    """A difference of accuracies in points."""
    if not found or found["mean"] is None:
        return ""
    low, high = found["interval"]
    reach = "" if low is None else f" ({100 * low:+.1f} … {100 * high:+.1f})"
    return f"{100 * found['mean']:+.1f}{reach}"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def lineage_tree(link: Link) -> Tree:
    """A model's chain, each artifact with its digest, the run that made it and the commit."""
    tree = Tree(_label(link))
    _grow(tree, link, set())
    return tree


def _grow(tree: Tree, link: Link, seen: set[tuple[str, str]]) -> None:
    for source in link.sources:
        known = (source.path, source.digest) in seen
        seen.add((source.path, source.digest))
        branch = tree.add(_label(source) + (" [dim](above)[/]" if known and source.sources else ""))
        if not known:
            _grow(branch, source, seen)


def _label(link: Link) -> str:
    if link.run is None:
        return f"{link.path} [dim]md5 {link.digest[:12]}[/] (not made by a recorded run)"
    tags = link.run.data.tags
    dirty = "+changes" if tags.get("ost.git_dirty") == "true" else ""
    made = f"{tags['ost.stage']}, run {link.run.info.run_id[:8]}, seed {link.run.data.params.get('seed')}"
    return f"[bold]{link.path}[/] [dim]md5 {link.digest[:12]}[/] ← {made}, commit {link.commit[:10] or 'none'}{dirty}"


def uses_table(sample: str, found: list[Use]) -> Table:
    """The selections that a sample went through, and the models trained on it."""
    table = Table("arm", "rank", "reason", "selected by run", "models trained on it", title=f"sample {sample}")
    for use in found:
        models = [
            f"{model.name}/{model.version} ({model.tags.get('ost.run')}, {_accuracy(model)})" for model in use.models
        ]
        rank = "–" if use.rank is None else str(use.rank)
        table.add_row(use.arm, rank, use.reason, use.run.info.run_id[:8], "\n".join(models) or "none")
    return table


def _accuracy(model) -> str:
    value = model.tags.get("ost.accuracy")
    return f"accuracy {float(value):.1%}" if value else "not evaluated"
