"""The library's calls on files, for the `ost` command: no workspace and no flow needed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.display import Display, say, warn
from ost.data import content_digest
from ost.settings import SFT, Data, Execution, Score, Select, Warmup
from ost.types import Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from ost.data import Dataset
    from ost.scoring import Job
    from ost.scoring.checks import Checks
    from ost.scoring.scored import Scored


def score_files(
    sources: tuple[str, str],
    models: tuple[str, str | None],
    out: Path,
    work: Path,
    data: Data,
    warmup: tuple[Warmup, int],
    settings: Score,
    execution: Execution,
    workers: int,
    threads: int,
) -> None:
    """Score a pool against anchors (`sources`) with a proxy and its base (`models`), and write the table.

    `warmup`: how the proxy is trained first, and for how many steps. What a later run can take over lies in `work`,
    which this process has to itself: raises WorkspaceError where another is at work there.
    """
    from flows.lock import claim
    from ost.baselines.visual_gain import require_images
    from ost.data import Dataset
    from ost.execution.device import confine, find_devices
    from ost.ingestion import ingest, write_quarantine
    from ost.scoring import Job, score_file
    from ost.store import write_table
    from tasks.stages.digests import Digests
    from tasks.stages.reproducible import make_reproducible

    devices = find_devices("auto", 1, 1)
    if devices.accelerated:
        confine(devices.names[0])
    make_reproducible(threads)
    proxy, base = models
    with claim(work / ".ost/lock"), Display() as display:
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
            execution=execution,
            digest_of=Digests(work / ".ost/digests.db").of,
        )
        if settings.visual_gain:
            require_images(Dataset(job.pool))
        result = score_file(job, progress=display.bar("score"))
        if settings.visual_gain:
            result = _with_visual_gain(result, job, display.bar("visual gain"))
    write_table(out, result.table)
    several = _write_turns(out, result.turns)
    for warning in [*ingested.warnings, *result.warnings]:
        warn(warning)
    for name, counts in ingested.counts.items():
        if counts["quarantined"]:
            say(f"{name}: {counts['quarantined']} left out {counts['reasons']}")
    if result.plan:
        rate = f"a learning rate of {result.plan.learning_rate:g}"
        say(f"trained on the anchors for {result.plan.steps} step(s) at {rate}")
    say(_checks_line(result.checks))
    took = f"{result.cost.seconds:.1f} s"
    if result.spent.scored < len(result.table):
        took += f", {result.spent.seconds:.1f} s of them now"
    say(
        f"{len(result.table):,} samples scored, {result.toxic_share:.1%} toxic, {took} → {out}\n"
        f"{several}next: ost select {out} --out subset.parquet\n"
        f"      ost export subset.parquet --data {work / 'data/pool'} --form trl --out subset"
    )


def _with_visual_gain(scored: "Scored", job: "Job", progress: Progress) -> "Scored":
    """The scores of a job with what images take off its proxy's losses."""
    from ost.baselines.visual_gain import with_visual_gain
    from ost.data import Dataset

    table, found = with_visual_gain(scored.table, Dataset(job.pool), job.load_proxy(), job.execution, progress)
    spent = replace(scored.spent, seconds=scored.spent.seconds + found.cost.seconds)
    return replace(scored, table=table, cost=scored.cost + found.cost, spent=spent)


def _write_turns(scores: Path, turns: "pa.Table | None") -> str:
    """Write the table of turns beside a score table, where there is one; a line that says so, of samples of several."""
    from ost.selection import turns_beside
    from ost.store import write_table

    if turns is None:
        return ""
    write_table(turns_beside(scores), turns)
    samples = len(turns["id"].unique())
    if len(turns) == samples:
        return ""
    return f"{len(turns):,} turns of {samples:,} samples scored → {turns_beside(scores)}; mask by them: --unit turn\n"


def _warmed_up(proxy: str, pool: "Dataset", settings: Warmup, steps: int, work: Path, display: Display) -> Path:
    """Folder of the proxy after a short training on the pool; one that lies there from before is taken over.

    Its name is the digest of all that makes it what it is. Others, of what was given before, are removed. Without a
    learning rate it is trained at the usual one of its size.
    """
    from ost.models import add_adapter, load_checkpoint, resolve_device
    from ost.scoring.shards import made_by, weights_of
    from ost.store import md5, remove
    from ost.training import Recipe, train, usual_rate
    from ost.training.recipe import RATES
    from tasks.stages.digests import Digests

    batch_size, adapter = SFT().batch_size, bool(settings.lora_rank)
    weights = weights_of(proxy, Digests(work / ".ost/digests.db").of)
    how = [settings.lora_rank, settings.learning_rate or RATES[adapter], steps, batch_size]
    given = [proxy, *weights, *made_by(), content_digest(pool.ids()), *how]
    folder = work / f"proxy-warm-{md5(json.dumps(given).encode()).hexdigest()}"
    for other in set(work.glob("proxy-warm*")) - {folder}:
        remove(other)
    if folder.is_dir():
        return folder
    checkpoint = load_checkpoint(proxy, resolve_device("auto"))
    rate = settings.learning_rate or usual_rate(checkpoint.model.num_parameters(), adapter)
    if adapter:
        add_adapter(checkpoint.model, settings.lora_rank, 0)
    recipe = Recipe(steps=steps, batch_size=batch_size, learning_rate=rate)
    trained = train(checkpoint, pool, recipe, display.bar("warmup"))
    checkpoint.second_moment = trained.moments.corrected_second()
    checkpoint.save(folder)
    say(f"warmed up for {steps} step(s) at a learning rate of {rate:g}")
    return folder


def _checks_line(checks: "Checks | None") -> str:
    if checks is None:
        return "no checks were made"
    return (
        f"on {checks.samples} random samples: rank agreement {checks.fidelity.spearman:.4f} with "
        f"{checks.arithmetic}, "
        f"{checks.stability:.2f} with another anchor set, {checks.lookahead.spearman:.2f} between one step and many"
    )


def select_file(path: Path, out: Path, fraction: float, settings: Select, seed: int) -> None:
    """Select a fraction of the samples in a score table, and write the selection."""
    from ost.scoring import read_scores
    from ost.selection import by_utility, expected_purity, kept_ids, mask_turns, masks_of, read_turns, warnings_of
    from ost.store import write_table

    scores = read_scores(path)
    table = by_utility(scores, fraction, settings, seed)
    if settings.unit == "turn":
        table = mask_turns(table, scores, read_turns(path), settings)
    write_table(out, table)
    for warning in warnings_of(scores, settings, fraction, in_full=True):
        warn(warning)
    purity = expected_purity(table)
    told = "" if purity is None else f", chosen from a part of which {purity:.0%} is expected to be right"
    if masked := sum(map(len, masks_of(table).values())):
        told += f", {masked:,} of their turns masked"
    say(f"{len(kept_ids(table)):,} of {len(table):,} samples kept{told} → {out}")
