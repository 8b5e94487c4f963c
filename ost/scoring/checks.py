"""What every run is checked on: a few hundred random samples, scored by the simulated step in float64."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import spearmanr

from ost.config import Score
from ost.cost import BACKWARD
from ost.data import Sample
from ost.models import Checkpoint
from ost.scoring.anchors import Cells, folds_of
from ost.scoring.exact import ExactScorer
from ost.scoring.lookahead import LookaheadScorer
from ost.scoring.rows import rows_of
from ost.scoring.scorer import Scorer
from ost.scoring.transposed import TransposedScorer
from ost.store import lists, matrix, read_table, write_table
from ost.types import Method, Progress, silent

STEP = 1e-4
"""Step size η of the reference: small enough for first order, large enough for float64."""
ENOUGH = 0.9
"""Share of the check's samples that suffices where those are known: a pool that grew a little is not checked anew."""
STEPS = 10
"""Steps of the walk that one step is held against."""
TOP = 0.2
"""Share of the samples whose overlap is told."""
FIDELITY, STABILITY, LOOKAHEAD = 0.99, 0.7, 0.7
"""Rank correlations below which a run is warned of."""


@dataclass(frozen=True)
class Agreement:
    """How alike two rankings of the same samples are."""

    spearman: float
    top_overlap: float
    """Share of the one ranking's top 20 % that the other has there too."""


@dataclass(frozen=True)
class Checks:
    """Agreement of the scores with what they stand for, on `samples` random samples of the pool."""

    samples: int
    fidelity: Agreement
    """Scores against the simulated step in float64; with `lookahead`, against the walk in float64."""
    lookahead: Agreement
    """One step against ten steps on the anchors; with `lookahead`, against as many as it takes."""
    halves: Agreement
    """One half of the anchors against the other."""
    stability: float
    """Rank correlation to be expected of another anchor set of the same size: Spearman and Brown's 2ρ / (1 + ρ)."""
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict:
        """As plain values; None where too few samples are finite for a figure."""
        return json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)


def choose(ids: Sequence[str], count: int) -> list[int]:
    """Positions of `count` samples that are random by content: the same whatever the pool's order, as far as it can."""
    order = sorted(
        range(len(ids)), key=lambda at: hashlib.blake2b(ids[at].encode(), digest_size=8, key=b"check").digest()
    )
    return sorted(order[:count])


class Reference:
    """The check's samples, scored in float64 by all anchors and by two halves of them, and with another step count."""

    def __init__(
        self,
        proxy: Checkpoint,
        anchors: Sequence[Sample],
        settings: Score,
        samples: Sequence[Sample],
        progress: Progress = silent,
        store: Path | None = None,
    ):
        """`store`: a Parquet file that rows are kept in from run to run.

        A sample that has one is not scored again; where ENOUGH of the samples do, the check is made on those alone.
        """
        self._method = settings.method
        known = read_table(store) if store and store.exists() else None
        old = set(known["id"].to_pylist()) if known else set()
        new = [sample for sample in samples if sample.id not in old]
        if known and len(new) <= (1 - ENOUGH) * len(samples):
            rows, self.samples, self.forwards = known, [sample for sample in samples if sample.id in old], 0.0
        else:
            reference = _walked if settings.method == "lookahead" else _simulated
            fresh, self.forwards = reference(proxy, anchors, settings, new, progress)
            rows, self.samples = pa.concat_tables(table for table in (known, fresh) if table), samples
        rows = rows.take(pc.index_in(pa.array([sample.id for sample in self.samples]), rows["id"].combine_chunks()))
        if store and self.forwards:
            write_table(store, rows)
        self.utility, self.other = rows["utility"].to_numpy(), rows["other"].to_numpy()
        self._halves = matrix(rows, "halves").T

    def accepts(self, utility: np.ndarray) -> bool:
        """Whether scores of the samples rank as the reference does."""
        return agreement(utility, self.utility).spearman >= FIDELITY

    def compare(self, utility: np.ndarray) -> Checks:
        """The checks, for the run's own utilities of the samples."""
        halves = agreement(*self._halves)
        stability = max(0.0, 2 * halves.spearman / (1 + halves.spearman)) if halves.spearman > -1 else 0.0
        fidelity, ahead = agreement(utility, self.utility), agreement(self.utility, self.other)
        checks = Checks(len(self.samples), fidelity, ahead, halves, stability)
        checks.warnings.extend(warnings_of(checks, self._method))
        return checks


def _simulated(
    proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, samples: Sequence[Sample], progress: Progress
) -> tuple[pa.Table, float]:
    """Rows by `exact` in float64, the other ranking by a walk; and the forward-pass equivalents that they took."""
    step, note = settings.step if settings.method == "exact" else STEP, "checking (exact, float64)"
    exact = settings.model_copy(update={"detail": "folds", "step": step, "sketch": 0})
    scorer = ExactScorer(_double(proxy), anchors, exact)
    by_cell = matrix(rows_of(scorer, samples, lambda done: progress(done, len(samples), note)), "by_cell")
    halves = np.stack([by_cell @ half for half in _halves(scorer.cells)], axis=1)
    ahead = settings.lookahead.model_copy(update={"steps": STEPS, "start": "warm"})
    ahead = settings.model_copy(
        update={"method": "lookahead", "optimizer": "auto", "detail": "total", "lookahead": ahead, "sketch": 0}
    )
    rows = _rows(samples, by_cell @ scorer.cells.shares, halves, _of(LookaheadScorer(proxy, anchors, ahead), samples))
    return rows, len(samples) * (3 + BACKWARD + len(anchors)) + STEPS * len(anchors) * (1 + BACKWARD)


def _walked(
    proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, samples: Sequence[Sample], progress: Progress
) -> tuple[pa.Table, float]:
    """As `_simulated`, by the walk itself in float64, by walks on the halves, and by one step as the other ranking."""
    settings, double = settings.model_copy(update={"detail": "total", "sketch": 0}), _double(proxy)
    halves = [[anchors[at] for at in fold] for fold in folds_of(anchors, 2)]
    ways = [(settings, anchors), (settings, halves[0]), (settings, halves[-1])]
    ways.append((settings.model_copy(update={"method": "transposed"}), anchors))
    found = []
    for way, own in ways:
        scorer = (TransposedScorer if way.method == "transposed" else LookaheadScorer)(double, own, way)
        found.append(_of(scorer, samples))
        progress(len(found), len(ways), "checking (float64)")
    walk = settings.lookahead.steps * (1 + BACKWARD)
    forwards = 2 * len(ways) * len(samples) + 2 * walk * len(anchors) + 2 * (2 + BACKWARD) * len(anchors)
    return _rows(samples, found[0], np.stack(found[1:3], axis=1), found[3]), forwards


def _double(proxy: Checkpoint) -> Checkpoint:
    return dataclasses.replace(proxy, model=copy.deepcopy(proxy.model).double())


def _of(scorer: Scorer, samples: Sequence[Sample]) -> np.ndarray:
    """Utilities (n,) by a scorer that sees all anchors as one cell."""
    return matrix(rows_of(scorer, samples), "by_cell")[:, 0]


def _rows(samples: Sequence[Sample], utility: np.ndarray, halves: np.ndarray, other: np.ndarray) -> pa.Table:
    """Columns `utility`, `halves` by each half of the anchors, and `other`: many steps for one, or one for many."""
    ids = [sample.id for sample in samples]
    return pa.table({"id": ids, "utility": utility, "halves": lists(halves), "other": other})


def agreement(one: np.ndarray, other: np.ndarray) -> Agreement:
    """Rank agreement of two scores (n,), over the samples where both are finite; NaN for fewer than three."""
    finite = np.isfinite(one) & np.isfinite(other)
    one, other = one[finite], other[finite]
    if len(one) < 3:
        return Agreement(float("nan"), float("nan"))
    top = max(1, round(TOP * len(one)))
    heads = (set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (one, other))
    return Agreement(float(spearmanr(one, other).statistic), len(set.intersection(*heads)) / top)


def _halves(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Shares of two halves of the cells, every other fold of each task."""
    odd = np.array(cells.folds) % 2
    return cells.shares * (1 - odd), cells.shares * odd


def warnings_of(checks: Checks, method: Method) -> list[str]:
    """What is low, and what to do about it."""
    found = []
    if checks.fidelity.spearman < FIDELITY:
        found.append(
            f"the scores rank only {checks.fidelity.spearman:.3f} like the simulated step in float64: set "
            "score.precision to fp32, score.method to gradient, or a smaller score.step"
        )
    if checks.stability < STABILITY:
        found.append(
            f"another anchor set of this size would give a ranking that agrees only {checks.stability:.2f} with this "
            "one: add anchors, above all for the tasks with few"
        )
    if checks.lookahead.spearman < LOOKAHEAD and method != "lookahead":
        found.append(
            f"one step ranks only {checks.lookahead.spearman:.2f} like a walk of many steps on the anchors: "
            "the loss is curved here; score with the method lookahead, warm the proxy up longer (warmup.fraction), or "
            "keep a wider part"
        )
    return found
