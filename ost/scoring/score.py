"""Score a pool: one that is held in memory, or one on disk, shard by shard."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.cost import BACKWARD, Cost, Stopwatch
from ost.data import Dataset, Sample, Samples
from ost.errors import ConfigError, DataError
from ost.execution.batches import Budget, budget_for
from ost.execution.compiling import decided
from ost.execution.device import peak_memory
from ost.execution.forward import forward_flops, losses_of, usual_arithmetic
from ost.models import Checkpoint
from ost.scoring.anchors import Partition, all_but_each, partition_of
from ost.scoring.checks import Reference, choose, count_of, make_reference
from ost.scoring.kept import seconds_of_weights
from ost.scoring.methods import METHODS
from ost.scoring.methods.anchor_training import Plan, forwards_on, plan_steps
from ost.scoring.methods.lookahead import LookaheadScorer, with_steps
from ost.scoring.methods.scorer import Scorer
from ost.scoring.methods.two_pass import moved_share
from ost.scoring.precision import Settled, Way, settle
from ost.scoring.scored import Scored, Spent, turn_table
from ost.scoring.self_test import self_test
from ost.scoring.shards import Job, Runner, collect, pending, prune, run_here
from ost.scoring.statistics import conformal_p, degrees_of_freedom, resolve, signal, toxic_q
from ost.scoring.swapped import are_swapped, swapped
from ost.selection.signal import Signal
from ost.settings import Execution, Score, parse_section
from ost.store import matrix
from ost.types import Arithmetic, Progress, silent

PROBED_ANCHORS, PROBED_SAMPLES = 16, 64
"""Samples that FLOPs are counted on."""


def score(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    proxy: Checkpoint,
    settings: Score | None = None,
    *,
    execution: Execution | None = None,
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
    if settings.visual_gain:
        raise ConfigError(
            "score.visual_gain is a column that the pipeline and `ost score --visual-gain` add; here call "
            "ost.baselines.visual_gain.with_visual_gain on the scores"
        )
    engine = Engine(proxy, anchors, settings, len(pool), execution)
    ids = pool.ids() if isinstance(pool, Samples) else [sample.id for sample in pool]
    engine.prepare([pool[at] for at in choose(ids, count_of(settings, proxy.model))], progress)
    scorer, parts, note = engine.scorer(), [], f"scoring ({settings.method})"
    shards = (pool[start : start + settings.shard_size] for start in range(0, len(pool), settings.shard_size))
    for rows in scorer.tables(shards, lambda done: progress(sum(map(len, parts)) + done, len(pool), note)):
        parts.append(rows)
    flops, used = forward_flops(proxy, pool, execution), Used.by(scorer)
    del scorer  # what it holds is needed no longer
    return engine.finish(pa.concat_tables(parts), flops, Spent(len(pool), watch.seconds), used)


def score_file(job: Job, run: Runner = run_here, progress: Progress = silent) -> Scored:
    """Score the pool of a job shard by shard; what is scored already is not scored again.

    The pool is never held whole. Shards are published one by one in the job's store, under a name that the proxy, the
    anchors, the settings and the scoring code make: a killed run goes on where it stood, and a pool that grew by 1 %
    costs 1 %. `run` maps the shards: here, in other processes or on other machines. What a method trains on the anchors
    it trains once, here.

    The cost is that of all that the table stands on, whichever run it was made in: `Scored.spent` is this run's alone.
    Raises what `score` raises.
    """
    watch, pool = Stopwatch(), Dataset(job.pool)
    ids = pool.ids()
    engine = Engine(job.load_proxy(), job.load_anchors(), job.settings, len(ids), job.execution)
    job = dataclasses.replace(job, name=job.run.name)
    engine.prepare(pool.at(choose(ids, count_of(job.settings, engine.proxy.model))), progress, job)
    steps, way = engine.plan.steps if engine.plan else None, engine.settled.taken
    tested = {"one_at_a_time": engine.proxy.one_at_a_time, "shares": engine.proxy.shares}
    job = dataclasses.replace(
        job, execution=engine.execution, arithmetic=way.arithmetic, step=way.step, steps=steps, **tested
    )
    shards = pending(job, ids)
    left = sum(map(len, shards))
    done, note = len(ids) - left, f"scoring ({job.settings.method})"
    earlier = engine.earlier + seconds_of_weights(job.ends)
    scorer = engine.scorer(store=job.ends, alone=True) if shards else None
    for size in run(job, shards, scorer):
        done += size
        progress(done, len(ids), note)
    rows = collect(job, pool.table(["id", "task"]))
    prune(job)
    earlier += float(np.delete(rows["seconds"].to_numpy(), np.concatenate(shards) if shards else []).sum())
    flops, used = forward_flops(engine.proxy, pool[:PROBED_SAMPLES], job.execution), scorer and Used.by(scorer)
    del scorer  # what it holds is needed no longer
    return engine.finish(rows, flops, Spent(left, watch.seconds), used, earlier)


@dataclasses.dataclass(frozen=True)
class Used:
    """What is told of a scorer that has done its work."""

    budget: Budget
    notes: tuple[str, ...]

    @classmethod
    def by(cls, scorer: Scorer) -> Self:
        """What this one used."""
        return cls(scorer.batches.budget, scorer.notes)


class Engine:
    """What all shards of a pool have in common: the method, the checks, and the table at the end."""

    def __init__(
        self,
        proxy: Checkpoint,
        anchors: Sequence[Sample],
        settings: Score,
        pool_size: int,
        execution: Execution | None = None,
    ):
        """Raises DataError for an empty pool or anchor set."""
        if not pool_size or not anchors:
            raise DataError(f"scoring needs a pool and anchors; found {pool_size} and {len(anchors)} samples")
        self.proxy, self.anchors, self.settings = proxy, anchors, settings
        self.on_accelerator = proxy.model.device.type != "cpu"
        self.execution = decided(execution or Execution(), proxy.model.device, pool_size)
        self.reference: Reference | None = None
        self.plan: Plan | None = None
        self.settled = Settled(Way("fp32"))
        self.notes: tuple[str, ...] = ()

    def prepare(self, samples: Sequence[Sample], progress: Progress = silent, job: Job | None = None) -> None:
        """Do what has to precede scoring: the proxy's self-test, the steps of `lookahead`, the check's reference, and
        the arithmetic. Raises ModelError for a proxy that fails its test.

        `samples`: those that the run is checked on. `job` says where each of these is kept.
        """
        tested = self_test(self.proxy, [*samples, *self.anchors], self.settings.layers)
        self.notes = tested.notes
        self.proxy = dataclasses.replace(self.proxy, one_at_a_time=tested.one_at_a_time, shares=tested.shares)
        if self.settings.method == "lookahead":
            self.plan = plan_steps(self._passes, job and job.plan(self._usual), progress)
            self.settings = with_steps(self.settings, self.plan.steps)
            job = job and dataclasses.replace(job, steps=self.plan.steps)
        if samples:
            self.reference = make_reference(
                self.proxy, self.anchors, self.settings, samples, self.execution, progress, job and job.reference
            )
        self.settled = settle(
            self.settings, self.on_accelerator, self.reference, self._tried, progress, job and job.trials
        )
        self.settings = self.settings.model_copy(update={"step": self.settled.taken.step})

    @property
    def earlier(self) -> float:
        """Seconds that earlier runs took for what was taken over from them in `prepare`."""
        return sum(made.earlier for made in (self.plan, self.reference, self.settled) if made)

    def scorer(self, way: Way | None = None, store: Path | None = None, *, alone: bool = False, **changes) -> Scorer:
        """The method, prepared: in the way that was settled if not told otherwise, with `changes` to the settings.

        `alone`: it is the run's, and the proxy, which is nobody else's, is held from now on as it holds it: in bf16
        where that is the arithmetic.
        """
        way = way or self.settled.taken
        settings = self.settings.model_copy(update={"step": way.step} | changes)
        if alone:
            _ = self.anchor_loss  # by the proxy as it was, and so
            if self.settings.method in ("transposed", "lookahead"):
                _ = self._share
        self.__dict__.pop("_passes", None)
        scorer = METHODS[settings.method](self.proxy, self.anchors, settings, way.arithmetic, self.execution)
        if alone:
            self.proxy = scorer.proxy
        scorer.ready(store)
        if alone:
            self.proxy = scorer.proxy
        return scorer

    def _tried(self, way: Way) -> np.ndarray:
        """Utilities (n,) of the reference's samples, computed in a way."""
        trial = self.scorer(way)
        return resolve(matrix(trial.rows(self.reference.samples), "by_cell"), trial.partition).utility

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

        Its metadata hold the signal: whether what ranks tells right from wrong at all, see `ost.selection.signal`.
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
        table = pa.table(columns | ({"sketch": rows["sketch"]} if self.settings.sketches else {}))
        return self.signal.onto(table)

    def finish(
        self, rows: pa.Table, forward_flops: float, spent: Spent, used: Used | None = None, earlier: float = 0.0
    ) -> Scored:
        """The table, the checks, and the cost, at `forward_flops` a pass and sample.

        `spent`: by this run; `used`: by the scorer that scored its rows, where that was here; `earlier`: seconds that
        earlier runs took for what this one took over.
        """
        table = self.table(rows)
        checks = None
        if self.reference:
            place = dict(zip(table["id"].to_pylist(), table["utility"].to_pylist(), strict=True))
            checks = self.reference.compare(np.array([place[sample.id] for sample in self.reference.samples]))
        cost = Cost(spent.seconds + earlier, forward_flops * self._forwards(len(rows)))
        budget = used.budget if used else budget_for(self.proxy, self.execution)
        return Scored(
            table,
            checks,
            self.anchor_loss,
            cost,
            self.plan,
            self.settled,
            budget.tokens,
            peak_memory(self.proxy.model.device),
            turn_table(rows, self.settings.lookahead.offset if self.plan else None),
            (*self.notes, *(used.notes if used else ())),
            spent,
        )

    @functools.cached_property
    def anchor_loss(self) -> float:
        """Mean loss of the proxy on the anchors, in nats."""
        return float(np.mean(self._losses(self.anchors)))

    @functools.cached_property
    def signal(self) -> Signal:
        """How well anchors are told from the same with each other's answers: by the proxy, and by what ranks."""
        told = are_swapped(self.anchors)
        if not self.plan:
            knowing = self._losses(swapped(self.anchors)) - self._losses(self.anchors)
            right, wrong = self._held_out
            return signal(knowing[told], (right - wrong)[told])
        plan, offset = self.plan, self.settings.lookahead.offset
        right = plan.gains / (np.array(plan.before) + offset)
        wrong = plan.swapped_gains / (np.array(plan.swapped_before) + offset)
        knowing = np.array(plan.swapped_after) - np.array(plan.after)
        return signal(knowing[told], (right - wrong)[told], plan.gains)

    @functools.cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Utility (A,) by one step of each anchor for the anchors outside its fold, and of it with another's answer."""
        scorer = self.scorer(detail="folds", sketch=0)
        return scorer.held_out(), scorer.held_out(swapped(self.anchors))

    def _losses(self, samples: Sequence[Sample]) -> np.ndarray:
        return np.array(losses_of(samples, self.proxy, self.execution))

    @functools.cached_property
    def partition(self) -> Partition:
        """The anchors as the run tells them apart."""
        return partition_of(self.anchors, self.settings)

    @functools.cached_property
    def _passes(self) -> LookaheadScorer:
        """A scorer that nothing is scored by: the number of steps is looked for with it, and what passes share."""
        usual = self._usual
        return LookaheadScorer(self.proxy, self.anchors, self.settings, usual, self.execution, held="fp32")

    @functools.cached_property
    def _usual(self) -> Arithmetic:
        """What is computed in where the pool's ranking is not at stake."""
        return "fp32" if self.settings.precision == "fp32" else usual_arithmetic(self.proxy, self.anchors[0])

    def _trusted(self) -> np.ndarray | None:
        """Utility (A,) of each anchor for the anchors outside its fold, by the same method; None where none is known.

        Where the utilities have a standard error it says all that `gradient` and `exact` need to know.
        """
        if self.plan:
            return self.plan.gains
        if degrees_of_freedom(self.partition):
            return None
        return self._held_out[0]

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
        """Forward-pass equivalents that a table of so many samples takes: anchors, pool and checks."""
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
                trained = map(len, all_but_each(self.partition.members))
                training = sum(forwards_on(self.settings.lookahead, own, anchors, self.plan.steps) for own in trained)
                return (1 + cells * self._share) * pool + (self.plan.forwards + training) * self._share + checked

    @functools.cached_property
    def _share(self) -> float:
        """Share of a pass that is above what is computed once."""
        return moved_share(self._passes, self.anchors[:PROBED_ANCHORS])
