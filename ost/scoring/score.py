"""Score a pool: one that is held in memory, or one on disk, shard by shard."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ost.config import Score, parse_section
from ost.cost import Stopwatch
from ost.data import Dataset, Sample, Samples
from ost.errors import DataError
from ost.flops import forward_flops
from ost.models import Checkpoint
from ost.scoring.checks import choose
from ost.scoring.engine import Engine, Scored
from ost.scoring.rows import rows_of
from ost.scoring.shards import Job, Runner, collect, pending, prune, run_here
from ost.store import read_table
from ost.types import Progress, silent

PROBE = 64
"""Samples that FLOPs are counted on."""


def score(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    proxy: Checkpoint,
    settings: Score | None = None,
    *,
    progress: Progress = silent,
    **changes,
) -> Scored:
    """Utility of every pool sample for the anchor loss (arXiv:2605.07488), positive where training on it helps.

    `changes` are keys of `ost.config.Score`, such as method="transposed". A sample whose loss is not finite keeps a NaN
    utility and is never toxic: it is quarantined. For a pool too large to hold, see `score_file`.

    Raises DataError for an empty pool or anchor set, ConfigError for a setting that is none, and ModelError where the
    proxy cannot be scored with.
    """
    watch, settings = Stopwatch(), parse_section(Score, (settings or Score()).model_dump() | changes, "score")
    engine = Engine(proxy, anchors, settings, len(pool))
    ids = pool.ids() if isinstance(pool, Samples) else [sample.id for sample in pool]
    engine.prepare([pool[at] for at in choose(ids, settings.checks)], progress)
    scorer, parts, note = engine.scorer(), [], f"scoring ({settings.method})"
    for start in range(0, len(pool), settings.shard_size):
        shard = pool[start : start + settings.shard_size]
        parts.append(rows_of(scorer, shard, lambda done, start=start: progress(start + done, len(pool), note)))
    return engine.finish(pa.concat_tables(parts), len(pool), forward_flops(proxy, pool), watch.seconds)


def score_file(job: Job, run: Runner = run_here, progress: Progress = silent) -> Scored:
    """Score the pool of a job shard by shard; what is scored already is not scored again.

    The pool is never held whole. Shards are published one by one in the job's store, under a name that the proxy, the
    anchors, the settings and the scoring code make: a killed run goes on where it stood, and a pool that grew by 1 %
    costs 1 %. `run` maps the shards, here or on other machines. Raises what `score` raises.
    """
    watch, pool = Stopwatch(), Dataset(job.pool)
    proxy, anchors, ids = job.load_proxy(), job.load_anchors(), pool.ids()
    engine = Engine(proxy, anchors, job.settings, len(ids))
    engine.prepare(pool.at(choose(ids, job.settings.checks)), progress, job.reference, job.walk)
    job = dataclasses.replace(job, bf16=engine.bf16, steps=engine.plan.steps if engine.plan else None)
    shards = pending(job, ids)
    left = sum(map(len, shards))
    done, note = len(ids) - left, f"scoring ({job.settings.method})"
    for size in run(job, shards):
        done += size
        progress(done, len(ids), note)
    rows = collect(job, ids)
    prune(job)
    flops = forward_flops(proxy, pool[:PROBE])
    return engine.finish(rows, left, flops, watch.seconds)


def read_scores(path: str | Path) -> pa.Table:
    """A score table from Parquet; raises DataError where there is none, a column is missing or there is no row."""
    try:
        table = read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no score table ({error}): make one with `ost score`") from error
    missing = [name for name in ("id", "utility", "toxic", "loss", "task") if name not in table.column_names]
    if missing or not len(table):
        raise DataError(f"{path} is no score table: {len(table)} rows, without {missing}; make one with `ost score`")
    return table
