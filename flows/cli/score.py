"""The library's calls on files, for the `ost` command: no workspace and no flow needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.display import Display, say, warn
from ost.data import content_digest
from ost.settings import SFT, Data, Score, Select, Warmup

if TYPE_CHECKING:
    from ost.data import Dataset
    from ost.scoring.checks import Checks


def score_files(
    sources: tuple[str, str],
    models: tuple[str, str | None],
    out: Path,
    work: Path,
    data: Data,
    warmup: tuple[Warmup, int],
    settings: Score,
    workers: int,
    threads: int,
) -> None:
    """Score a pool against anchors (`sources`) with a proxy and its base (`models`), and write the table.

    `warmup`: how the proxy is trained first, and for how many steps. What a later run can take over lies in `work`.
    """
    from ost.ingestion import ingest, write_quarantine
    from ost.scoring import Job, score_file
    from ost.store import write_table
    from tasks.stages.run import make_reproducible

    make_reproducible(threads)
    proxy, base = models
    with Display() as display:
        ingested = ingest(
            *sources,
            None,
            proxy,
            work / "data",
            data,
            memory=work / "ingest",
            workers=workers,
            progress=display.bar("ingest"),
        )
        write_quarantine(work / "quarantine.parquet", ingested.quarantine)
        if warmup[1]:
            base, proxy = proxy, _warmed_up(proxy, ingested["pool"], *warmup, work, display)
        job = Job(
            pool=work / "data/pool",
            anchors=work / "data/anchors",
            proxy=proxy,
            base=base,
            store=work / "scores",
            settings=settings,
            threads=threads,
        )
        result = score_file(job, progress=display.bar("score"))
    write_table(out, result.table)
    for warning in [*ingested.warnings, *result.warnings]:
        warn(warning)
    for name, counts in ingested.counts.items():
        if counts["quarantined"]:
            say(f"{name}: {counts['quarantined']} left out {counts['reasons']}")
    say(_checks_line(result.checks))
    say(
        f"{len(result.table):,} samples scored, {result.toxic_share:.1%} toxic, {result.cost.seconds:.1f} s → {out}\n"
        f"next: ost select {out} --out subset.parquet\n"
        f"      ost export subset.parquet --data {work / 'data/pool'} --form trl --out subset"
    )


def _warmed_up(proxy: str, pool: "Dataset", settings: Warmup, steps: int, work: Path, display: Display) -> Path:
    """Folder of the proxy after a short training on the pool; one that lies there from before is taken over."""
    from ost.models import add_adapter, load_checkpoint, resolve_device
    from ost.store import read_json, write_json
    from ost.training import Recipe, train

    folder, record = work / "proxy-warm", work / "proxy-warm.json"
    recipe = Recipe(steps=steps, batch_size=SFT().batch_size, learning_rate=settings.learning_rate)
    told = {"proxy": proxy, "lora_rank": settings.lora_rank, "pool": content_digest(pool.ids())} | vars(recipe)
    if folder.is_dir() and record.is_file() and read_json(record) == told:
        return folder
    checkpoint = load_checkpoint(proxy, resolve_device("auto"))
    if settings.lora_rank:
        add_adapter(checkpoint.model, settings.lora_rank, 0)
    trained = train(checkpoint, pool, recipe, display.bar("warmup"))
    checkpoint.second_moment = trained.moments.corrected_second()
    checkpoint.save(folder)
    write_json(record, told)
    return folder


def _checks_line(checks: "Checks | None") -> str:
    if checks is None:
        return "no checks were made"
    return (
        f"on {checks.samples} random samples: rank agreement {checks.fidelity.spearman:.4f} with float64, "
        f"{checks.stability:.2f} with another anchor set, {checks.lookahead.spearman:.2f} between one step and many"
    )


def select_file(path: Path, out: Path, fraction: float, settings: Select, seed: int) -> None:
    """Select a fraction of the samples in a score table, and write the selection."""
    from ost.scoring import read_scores
    from ost.selection import by_utility, clean_warnings, expected_purity, kept_ids
    from ost.store import write_table

    scores = read_scores(path)
    table = by_utility(scores, fraction, settings, seed)
    write_table(out, table)
    for warning in clean_warnings(scores, settings):
        warn(warning)
    purity = expected_purity(table)
    told = "" if purity is None else f", chosen from a part of which {purity:.0%} is expected to be right"
    say(f"{len(kept_ids(table)):,} of {len(table):,} samples kept{told} → {out}")
