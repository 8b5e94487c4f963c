"""Score a pool: one that is held in memory, or one on disk, shard by shard."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.cost import BACKWARD, Cost, Stopwatch
from ost.data import Dataset, Sample, Samples
from ost.errors import DataError
from ost.flops import forward_flops
from ost.models import Checkpoint
from ost.scoring.anchors import Partition, partition_of
from ost.scoring.checks import Checks, Reference, choose, make_reference
from ost.scoring.methods import prepared_scorer
from ost.scoring.methods.anchor_training import Plan, plan_steps
from ost.scoring.methods.lookahead import LookaheadScorer, with_steps
from ost.scoring.methods.scorer import Scorer
from ost.scoring.methods.two_pass import moved_share
from ost.scoring.passes.losses import losses_of
from ost.scoring.shards import Job, Runner, collect, pending, prune, run_here
from ost.scoring.statistics import conformal_p, degrees_of_freedom, resolve, toxic_q
from ost.settings import Score, parse_section
from ost.store import matrix, read_table
from ost.types import Progress, silent

PROBED_ANCHORS, PROBED_SAMPLES = 16, 64
"""Samples that FLOPs are counted on."""


@dataclass(frozen=True)
class Scored:
    """A score table, what the checks say about it, and what it cost."""

    table: pa.Table
    """N rows in pool order, see `Engine.table`."""
    checks: Checks | None
    """None where `score.checks` is 0."""
    anchor_loss: float
    """Mean loss of the proxy on the anchors, in nats."""
    cost: Cost
    plan: Plan | None = None
    """Of `lookahead`: how many steps were taken, and why."""

    @property
    def toxic_share(self) -> float:
        """Share of the pool that is toxic."""
        return pc.mean(self.table["toxic"].cast(pa.float64())).as_py()

    @property
    def quarantined(self) -> list[str]:
        """Ids of samples whose loss or utility is not finite."""
        return self.table.filter(pc.invert(pc.is_finite(self.table["utility"])))["id"].to_pylist()

    @property
    def figures(self) -> dict[str, float]:
        """The run in numbers."""
        found = {"toxic_share": self.toxic_share}
        if self.checks:
            fidelity, lookahead = self.checks.fidelity.spearman, self.checks.lookahead.spearman
            found |= {"fidelity": fidelity, "stability": self.checks.stability, "lookahead": lookahead}
        if self.plan:
            found |= {"steps": float(self.plan.steps), "left_out_loss": self.plan.curve[self.plan.steps]}
        return found | {"anchor_loss": self.anchor_loss}

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using the scores."""
        found = list(self.checks.warnings) if self.checks else []
        if self.plan:
            found += self.plan.warnings
        if broken := self.quarantined:
            found.append(f"{len(broken)} sample(s) with a loss that is not finite, such as {broken[0]}")
        return found


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

    `changes` are keys of `ost.settings.Score`, such as method="transposed". A sample whose loss is not finite keeps
    a NaN utility and is never toxic: it is quarantined. For a pool too large to hold, see `score_file`.

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
        parts.append(scorer.rows(shard, lambda done, start=start: progress(start + done, len(pool), note)))
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
    engine.prepare(pool.at(choose(ids, job.settings.checks)), progress, job.reference, job.plan)
    job = dataclasses.replace(job, bf16=engine.bf16, steps=engine.plan.steps if engine.plan else None)
    shards = pending(job, ids)
    left = sum(map(len, shards))
    done, note = len(ids) - left, f"scoring ({job.settings.method})"
    for size in run(job, shards):
        done += size
        progress(done, len(ids), note)
    rows = collect(job, ids)
    prune(job)
    flops = forward_flops(proxy, pool[:PROBED_SAMPLES])
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


class Engine:
    """What all shards of a pool have in common: the method, the checks, and the table at the end."""

    def __init__(self, proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, pool_size: int):
        """Raises DataError for an empty pool or anchor set."""
        if not pool_size or not anchors:
            raise DataError(f"scoring needs a pool and anchors; found {pool_size} and {len(anchors)} samples")
        self.proxy, self.anchors, self.settings = proxy, anchors, settings
        self.bf16 = settings.precision == "bf16"
        self.on_accelerator = proxy.model.device.type != "cpu"
        self.reference: Reference | None = None
        self.plan: Plan | None = None

    def prepare(
        self, samples: Sequence[Sample], progress: Progress = silent, rows: Path | None = None, plan: Path | None = None
    ) -> None:
        """Do what has to precede scoring: the steps that `lookahead` takes, the check's reference, and bf16.

        `samples`: those that the run is checked on. `rows`, `plan`: files that the reference and the steps are kept in.
        """
        if self.settings.method == "lookahead":
            self.plan = plan_steps(self._passes, plan, progress)
            self.settings = with_steps(self.settings, self.plan.steps)
        if samples:
            self.reference = make_reference(self.proxy, self.anchors, self.settings, samples, progress, rows)
            if self.settings.precision == "auto" and self.on_accelerator:
                trial = self.scorer(bf16=True)
                by_cell = matrix(trial.rows(self.reference.samples), "by_cell")
                self.bf16 = self.reference.accepts(resolve(by_cell, trial.partition).utility)

    def scorer(self, bf16: bool | None = None, **changes) -> Scorer:
        """The method, prepared: in the run's arithmetic if not told otherwise, with `changes` to the run's settings."""
        settings = self.settings.model_copy(update=changes)
        return prepared_scorer(self.proxy, self.anchors, settings, self.bf16 if bf16 is None else bf16)

    def table(self, rows: pa.Table) -> pa.Table:
        """The score table, a row a sample.

        - `id`, `task`, `loss` in nats, `tokens` of the answer, and `length` in tokens of the whole.
        - `utility`: anchor loss saved per unit of learning rate, with `lookahead` the sample's own loss saved, in nats;
          `utility_per_token`: that by length, which is what a training step costs; `utility/TASK`: for the anchors of
          each task, where they are told apart; `utility_relative`, with `lookahead` alone: (L0 − L1) / (L0 + c).
        - `utility_se`: the standard error of utility over anchors; null where all anchors are one cell.
        - `toxic_q`: false-discovery rate at which the sample counts as toxic; `toxic`: it is at most `score.toxic_q`,
          and the utility is negative. Null, and false, for a sample of a task that no anchor has, where harm is told by
          how anchors fare: it is not like any of them.
        - `p_clean`, where the anchors' own held-out utilities are known: the conformal p-value against them of what
          ranks, uniform for samples that are like anchors.
        - `sketch`, where asked for: what breadth is judged by.
        """
        found = resolve(matrix(rows, "by_cell"), self.partition)
        loss, freedom = rows["loss"].to_numpy(), degrees_of_freedom(self.partition)
        trusted = self._trusted()
        tested = True if trusted is None else self._comparable(rows["task"])
        q = toxic_q(found, freedom, trusted, tested)
        columns = {
            "id": rows["id"],
            "utility": pa.array(found.utility),
            "utility_se": pa.array(found.error, mask=np.isnan(found.error)),
            "toxic": pa.array((q <= self.settings.toxic_q) & (found.utility < 0)),
            "toxic_q": pa.array(q, mask=np.isnan(q)),
            **{name: rows[name] for name in ("loss", "tokens", "length")},
            "utility_per_token": pa.array(found.utility / rows["length"].to_numpy()),
            **self._against_trusted(found.utility, loss, trusted),
            "task": rows["task"],
            **{f"utility/{task}": pa.array(values) for task, values in found.groups.items()},
        }
        return pa.table(columns | ({"sketch": rows["sketch"]} if self.settings.sketches else {}))

    def finish(self, rows: pa.Table, scored: int, forward_flops: float, seconds: float) -> Scored:
        """The table, the checks, and the cost: `scored` rows are of this run, at `forward_flops` a pass and sample."""
        table = self.table(rows)
        checks = None
        if self.reference:
            place = dict(zip(table["id"].to_pylist(), table["utility"].to_pylist(), strict=True))
            checks = self.reference.compare(np.array([place[sample.id] for sample in self.reference.samples]))
        anchor_loss = float(np.mean(losses_of(self.anchors, self.proxy, self.settings.batch_size)))
        cost = Cost(seconds, forward_flops * self._forwards(scored))
        return Scored(table, checks, anchor_loss, cost, self.plan)

    @functools.cached_property
    def partition(self) -> Partition:
        """The anchors as the run tells them apart."""
        return partition_of(self.anchors, self.settings)

    @functools.cached_property
    def _passes(self) -> LookaheadScorer:
        """A scorer that nothing is scored by: the number of steps is looked for with it, and what passes share."""
        return LookaheadScorer(self.proxy, self.anchors, self.settings)

    def _trusted(self) -> np.ndarray | None:
        """Utility (A,) of each anchor for the anchors outside its fold, by the same method; None where none is known.

        Where the utilities have a standard error it says all that `gradient` and `exact` need to know.
        """
        if self.plan:
            return self.plan.gains
        if degrees_of_freedom(self.partition):
            return None
        return self.scorer(detail="folds", sketch=0).held_out()

    def _comparable(self, tasks: pa.ChunkedArray) -> np.ndarray:
        """Which samples (N,) can be held against trusted ones: those of a task that anchors have, or of none."""
        known = pa.array(sorted({anchor.task for anchor in self.anchors} | {""}))
        return pc.is_in(tasks, known).to_numpy()

    def _against_trusted(
        self, utility: np.ndarray, loss: np.ndarray, trusted: np.ndarray | None
    ) -> dict[str, pa.Array]:
        """What ranks, and where it stands among the same of trusted samples."""
        columns, offset = {}, self.settings.lookahead.offset
        if self.plan:
            utility, trusted = utility / (loss + offset), trusted / (np.array(self.plan.before) + offset)
            columns["utility_relative"] = pa.array(utility)
        if trusted is not None:
            broken = ~np.isfinite(utility)
            columns["p_clean"] = pa.array(conformal_p(utility, trusted), mask=broken)
        return columns

    def _forwards(self, pool: int) -> float:
        """Forward-pass equivalents of a run: anchors, pool and checks."""
        anchors, full, cells = len(self.anchors), 1 + BACKWARD, len(self.partition.members)
        checked = self.reference.forwards if self.reference else 0
        match self.settings.method:
            case "exact":
                return pool * (full + anchors) + anchors + checked
            case "gradient":
                return (pool + anchors) * full + checked
            case "transposed":
                return (1 + (2 * cells - 1) * self._share) * pool + 2 * (1 + full) * anchors + checked
            case "lookahead":
                training = cells * self.plan.steps * anchors * full if self.plan.forwards else 0
                return (1 + cells * self._share) * pool + (self.plan.forwards + training) * self._share + checked

    @functools.cached_property
    def _share(self) -> float:
        """Share of a pass that is above what is computed once."""
        return moved_share(self._passes, self.anchors[:PROBED_ANCHORS])
