"""What every run is checked on: a few hundred random samples, scored by the simulated step in float64."""

import copy
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
from ost.data import Sample
from ost.models import Checkpoint
from ost.scoring.anchors import Cells, divide
from ost.scoring.exact import ExactScorer
from ost.scoring.lookahead import LookaheadScorer
from ost.scoring.rows import rows_of
from ost.scoring.statistics import resolve
from ost.store import matrix, read_table, write_table
from ost.types import Progress, silent

STEP = 1e-4
"""Step size η of the reference: small enough for first order, large enough for float64."""
ENOUGH = 0.9
"""Share of the check's samples that suffices where those are known: a pool that grew a little is not checked anew."""
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
    """Scores against the simulated step in float64."""
    lookahead: Agreement
    """One step against ten steps on the anchors."""
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
    """The check's samples, scored by `exact` in float64 for every fold of the anchors, and by ten steps."""

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
        self._cells = divide(anchors, "folds", settings.folds)
        known = read_table(store) if store and store.exists() else None
        old = set(known["id"].to_pylist()) if known else set()
        new = [sample for sample in samples if sample.id not in old]
        if known and len(new) <= (1 - ENOUGH) * len(samples):
            rows, self.samples, self.scored = known, [sample for sample in samples if sample.id in old], 0
        else:
            fresh = _score(proxy, anchors, settings, new, progress)
            rows, self.samples = pa.concat_tables(table for table in (known, fresh) if table), samples
            self.scored = len(new)
        rows = rows.take(pc.index_in(pa.array([sample.id for sample in self.samples]), rows["id"].combine_chunks()))
        if store and self.scored:
            write_table(store, rows)
        self._by_cell, self._ahead = matrix(rows, "by_cell"), rows["ahead"].to_numpy()
        self.utility = resolve(self._by_cell, self._cells).utility

    def accepts(self, utility: np.ndarray) -> bool:
        """Whether scores of the samples rank as the reference does."""
        return agreement(utility, self.utility).spearman >= FIDELITY

    def compare(self, utility: np.ndarray) -> Checks:
        """The checks, for the run's own utilities of the samples."""
        halves = agreement(*(self._by_cell @ half for half in _halves(self._cells)))
        stability = max(0.0, 2 * halves.spearman / (1 + halves.spearman)) if halves.spearman > -1 else 0.0
        fidelity, ahead = agreement(utility, self.utility), agreement(self.utility, self._ahead)
        checks = Checks(len(self.samples), fidelity, ahead, halves, stability)
        checks.warnings.extend(warnings_of(checks))
        return checks


def _score(
    proxy: Checkpoint, anchors: Sequence[Sample], settings: Score, samples: Sequence[Sample], progress: Progress
) -> pa.Table:
    """Rows of `exact` in float64, and in the column `ahead` what ten steps say."""
    step = settings.step if settings.method == "exact" else STEP
    settings = settings.model_copy(update={"detail": "folds", "step": step, "sketch": 0})
    double = Checkpoint(copy.deepcopy(proxy.model).double(), proxy.processor, proxy.second_moment)
    note = "checking (exact, float64)"
    rows = rows_of(ExactScorer(double, anchors, settings), samples, lambda done: progress(done, len(samples), note))
    walker = LookaheadScorer(proxy, anchors, settings.model_copy(update={"detail": "total"}))
    ahead = matrix(rows_of(walker, samples), "by_cell")[:, 0]
    return rows.append_column("ahead", pa.array(ahead))


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


def warnings_of(checks: Checks) -> list[str]:
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
    if checks.lookahead.spearman < LOOKAHEAD:
        found.append(
            f"one step ranks only {checks.lookahead.spearman:.2f} like {LookaheadScorer.steps} steps on the anchors: "
            "the loss is curved here; warm the proxy up longer (warmup.fraction), or keep a wider part"
        )
    return found
