"""The library's calls on files, for the `ost` command: no workspace and no flow needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from flows.display import Display, console
from flows.summary import lineage_tree, uses_table
from ost.config import Score, Select, load_params
from ost.errors import WorkspaceError
from tasks.lineage import chain, find_version, uses
from tasks.tracking import Tracker

if TYPE_CHECKING:
    from ost.scoring.checks import Checks


def score_files(
    pool: Path,
    anchors: Path,
    proxy: str,
    base: str | None,
    out: Path,
    settings: Score,
    max_tokens: int,
    threads: int,
) -> None:
    """Score a pool file and write the table; what cannot be scored is counted by reason."""
    from ost.config import Data
    from ost.ingestion import ingest
    from ost.models import load_checkpoint, resolve_device
    from ost.scoring import score
    from ost.store import write_table
    from tasks.stages import settle

    settle(threads)
    display = Display()
    display.start()
    try:
        checkpoint = load_checkpoint(proxy, resolve_device("auto"), base)
        ingested = ingest(pool, anchors, None, checkpoint, max_tokens=max_tokens, max_pixels=Data().max_pixels)
        scored = score(
            ingested.pool,
            ingested.anchors,
            checkpoint,
            settings,
            progress=lambda done, total, note="": display.advance("score", done, total, note),
        )
    finally:
        display.stop()
    write_table(out, scored.table)
    for warning in [*ingested.warnings, *scored.warnings]:
        console.print("[yellow]![/]", escape(warning))
    for source, counts in ingested.counts.items():
        if counts["quarantined"]:
            console.print(f"{source}: {counts['quarantined']} left out {counts['reasons']}", markup=False)
    console.print(_checks_line(scored.checks))
    console.print(
        f"{len(scored.table):,} samples scored, {scored.toxic_share:.1%} toxic, {scored.cost.seconds:.1f} s → {out}"
    )


def _checks_line(checks: "Checks | None") -> str:
    if checks is None:
        return "no checks were made"
    return (
        f"on {checks.samples} random samples: rank agreement {checks.fidelity.spearman:.4f} with float64, "
        f"{checks.stability:.2f} with another anchor set, {checks.lookahead.spearman:.2f} between one step and many"
    )


def select_file(path: Path, out: Path, settings: Select, seed: int) -> None:
    """Select from a score table and write the selection."""
    from ost.scoring import read_scores
    from ost.selection import by_utility, clean_warnings, expected_purity, kept_ids
    from ost.store import write_table

    scores = read_scores(path)
    table = by_utility(scores, settings.fraction, settings, seed)
    write_table(out, table)
    for warning in clean_warnings(scores, settings):
        console.print("[yellow]![/]", escape(warning))
    purity = expected_purity(table)
    told = "" if purity is None else f", chosen from a part of which {purity:.0%} is expected to be right"
    console.print(f"{len(kept_ids(table)):,} of {len(table):,} samples kept{told} → {out}")


def show_lineage(name: str, workspace: Path) -> None:
    """Print the chain behind a registered model, or the models in front of a sample."""
    root = workspace.resolve()
    tracker = Tracker(root, load_params(root / "params.yaml"))
    version = find_version(tracker, name)
    if version:
        accuracy = version.tags.get("ost.accuracy", "not evaluated")
        console.print(f"model {version.name}/{version.version}: run {version.tags['ost.run']}, accuracy {accuracy}")
        console.print(lineage_tree(chain(tracker, version)))
        return
    found = uses(tracker, name)
    if not found:
        raise WorkspaceError(
            f"{name!r} is neither the registered model {tracker.model_name!r} nor a sample of a recorded selection; "
            "ids stand in data/pool.parquet, and refused samples in data/quarantine.parquet"
        )
    console.print(uses_table(name, found))
