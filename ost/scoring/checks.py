"""What every run is checked on: a few hundred random samples, scored by the simulated step in float64.

Where a copy of the proxy in float64 does not fit the memory there is, the proxy as it is, in fp32, is the reference.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.stats import spearmanr
from transformers import PreTrainedModel

from ost.cost import BACKWARD, Stopwatch
from ost.data import Sample
from ost.encoding import Batch
from ost.execution.device import memory_of
from ost.execution.losses import gradients
from ost.models import Checkpoint, in_float64
from ost.scoring.anchors import folds_of, order_by_content
from ost.scoring.kept import kept_table
from ost.scoring.methods import prepared_scorer
from ost.scoring.methods.anchor_training import forwards_on, steps_on
from ost.scoring.methods.lookahead import with_steps
from ost.scoring.methods.scorer import BatchScores, Scorer
from ost.scoring.passes.weights import scored_weights, untied
from ost.settings import Execution, Score
from ost.store import lists, matrix, write_table
from ost.types import Method, Progress, silent

STEP = 1e-4
"""Step size η of the reference: small enough for first order, large enough for float64."""
COPIES = 4
"""Copies of the weights that move beside the reference's own: moved, their gradient, and Adam's moments."""
ENOUGH = 0.9
"""Share of the check's samples that suffices where those are known: a pool that grew a little is not checked anew."""
MOST, FEWER = 200, 20
"""Samples that a run is checked on where nobody says how many, and with a large proxy on a CPU."""
LARGE = 50_000_000
"""Weights of a proxy that is large for a CPU: a check takes about ten passes over a sample, in float64."""
STEPS = 10
"""Steps on the anchors that one step is held against."""
ROOM = 0.5
"""Share of the free memory that the reference's weights may take: activations need the rest."""
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
    """Scores against the simulated step in float64; with `lookahead`, against as many steps in float64."""
    lookahead: Agreement
    """One step against ten steps on the anchors; with `lookahead`, against as many as it takes."""
    halves: Agreement
    """One half of the anchors against the other."""
    stability: float
    """Rank correlation to be expected of another anchor set of the same size: Spearman and Brown's 2ρ / (1 + ρ)."""
    warnings: list[str] = field(default_factory=list)
    arithmetic: str = "float64"
    """What the reference was computed in."""

    def to_json(self) -> dict:
        """As plain values; None where too few samples are finite for a figure."""
        return json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)


def count_of(settings: Score, model: PreTrainedModel) -> int:
    """How many samples a run is checked on: as the settings have it, or as many as suit the proxy and its device."""
    if settings.checks is not None:
        return settings.checks
    return FEWER if model.device.type == "cpu" and model.num_parameters() > LARGE else MOST


def choose(ids: Sequence[str], count: int) -> list[int]:
    """Positions of `count` samples that are random by content: the same whatever the pool's order, as far as it can."""
    return sorted(order_by_content(ids, b"check")[:count])


@dataclass(frozen=True)
class Reference:
    """The check's samples, scored in float64 by all anchors and by two halves of them, and with another step count."""

    samples: Sequence[Sample]
    utility: np.ndarray
    """(n,) by the simulated step, or with `lookahead` by as many steps as the run takes."""
    halves: np.ndarray
    """(n, 2) by each half of the anchors."""
    other: np.ndarray
    """(n,) by many steps, or with `lookahead` by one."""
    method: Method
    forwards: float
    """Forward-pass equivalents that it took, those of rows from earlier runs included."""
    arithmetic: str = "float64"
    earlier: float = 0.0
    """Seconds that the rows from earlier runs took there."""

    def compare(self, utility: np.ndarray) -> Checks:
        """The checks, for the run's own utilities of the samples."""
        halves = agreement(*self.halves.T)
        stability = max(0.0, 2 * halves.spearman / (1 + halves.spearman)) if halves.spearman > -1 else 0.0
        fidelity, ahead = agreement(utility, self.utility), agreement(self.utility, self.other)
        checks = Checks(len(self.samples), fidelity, ahead, halves, stability, arithmetic=self.arithmetic)
        return dataclasses.replace(checks, warnings=warnings_of(checks, self.method))


def make_reference(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    settings: Score,
    samples: Sequence[Sample],
    execution: Execution | None = None,
    progress: Progress = silent,
    store: Path | None = None,
) -> Reference:
    """Score the check's samples in float64. `store`: a Parquet file that rows are kept in from run to run.

    A sample that has a row is not scored again; where ENOUGH of the samples do, the check is made on those alone. A row
    has its share of the `seconds` and `forwards` that it was made in.
    """
    known = kept_table(store)
    old = set(known["id"].to_pylist()) if known else set()
    new = [sample for sample in samples if sample.id not in old]
    fresh = None
    if known and len(new) <= (1 - ENOUGH) * len(samples):
        samples = [sample for sample in samples if sample.id in old]
    else:
        by_steps = _by_many_steps if settings.method == "lookahead" else _by_one_step
        watch, (fresh, forwards) = Stopwatch(), by_steps(proxy, anchors, settings, new, execution, progress)
        for name, took in (("seconds", watch.seconds), ("forwards", forwards)):
            fresh = fresh.append_column(name, pa.array(np.full(len(new), took / len(new))))
    rows = pa.concat_tables(table for table in (known, fresh) if table)
    rows = rows.take(pc.index_in(pa.array([sample.id for sample in samples]), rows["id"].combine_chunks()))
    if store and fresh:
        write_table(store, rows)
    before = rows.filter(pc.is_in(rows["id"], pa.array(sorted(old), pa.string())))
    found = "float64" if set(rows["arithmetic"].to_pylist()) == {"float64"} else "fp32"
    return Reference(
        samples,
        rows["utility"].to_numpy(),
        matrix(rows, "halves"),
        rows["other"].to_numpy(),
        settings.method,
        pc.sum(rows["forwards"]).as_py(),
        found,
        pc.sum(before["seconds"]).as_py() or 0.0,
    )


def _by_one_step(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    settings: Score,
    samples: Sequence[Sample],
    execution: Execution | None,
    progress: Progress,
) -> tuple[pa.Table, float]:
    """Rows by `exact`, the other ranking by many steps; and the forward-pass equivalents that they took."""
    precise, arithmetic = _precise(proxy, settings)
    note = f"checking ({arithmetic})"
    if arithmetic == "float64":
        step = settings.length if settings.method == "exact" else STEP
        exact = settings.model_copy(update={"method": "exact", "detail": "folds", "step": step})
        scorer = prepared_scorer(precise, anchors, exact, execution=execution)
        by_cell = matrix(scorer.rows(samples, lambda done: progress(done, len(samples), note)), "by_cell")
        shares, odd = scorer.partition.shares, np.array(scorer.partition.folds) % 2  # every other fold of each task
        utility = by_cell @ shares
        halves = np.stack([by_cell @ (shares * (1 - odd)), by_cell @ (shares * odd)], axis=1)
    else:
        halves = _products(precise, anchors, settings, samples, execution)
        utility = halves.mean(axis=1)
        progress(len(samples), len(samples), note)
    ahead = settings.lookahead.model_copy(update={"steps": STEPS, "start": "warm"})
    changes = {"method": "lookahead", "optimizer": "auto", "detail": "total", "lookahead": ahead, "sketch": 0}
    other = _utility(proxy, anchors, settings.model_copy(update=changes), samples, execution)
    forwards = len(samples) * (3 + BACKWARD + len(anchors)) + forwards_on(ahead, len(anchors), len(anchors), STEPS)
    return _rows(samples, utility, halves, other, arithmetic), forwards


def _by_many_steps(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    settings: Score,
    samples: Sequence[Sample],
    execution: Execution | None,
    progress: Progress,
) -> tuple[pa.Table, float]:
    """As `_by_one_step`, by the run's own steps, by those on each half, and by one step as the other ranking."""
    precise, arithmetic = _precise(proxy, settings)
    settings = settings.model_copy(update={"detail": "total", "sketch": 0})
    halves = [[anchors[at] for at in fold] for fold in folds_of(anchors, 2)]
    one_step = settings.model_copy(update={"method": "transposed"})
    ahead, ways = settings.lookahead, []
    for own in (anchors, halves[0], halves[-1]):
        ways.append((own, with_steps(settings, steps_on(ahead, len(own), len(anchors), ahead.steps))))
    ways.append((anchors, one_step))
    found = []
    for own, how in ways:
        found.append(_utility(precise, own, how, samples, execution))
        progress(len(found), len(ways), f"checking ({arithmetic})")
    training = sum(forwards_on(ahead, len(own), len(anchors), ahead.steps) for own, _ in ways[:-1])
    forwards = 2 * len(found) * len(samples) + training + 2 * (2 + BACKWARD) * len(anchors)
    return _rows(samples, found[0], np.stack(found[1:3], axis=1), found[3], arithmetic), forwards


def _products(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    settings: Score,
    samples: Sequence[Sample],
    execution: Execution | None,
) -> np.ndarray:
    """Products (n, 2) of each sample's gradient with the step of each half of the anchors.

    What the simulated step comes to as it gets short: no step is taken, so none can drown in fp32.
    """
    total, found = settings.model_copy(update={"detail": "total", "sketch": 0}), []
    for half in folds_of(anchors, 2):
        scorer = ProductScorer(proxy, [anchors[at] for at in half], total, execution=execution)
        scorer.prepare()
        found.append(matrix(scorer.rows(samples), "by_cell")[:, 0])
    return np.stack([found[0], found[-1]], axis=1)


class ProductScorer(Scorer):
    """Utilities ⟨∇ℓ(z), g⟩ by plain autograd, a sample at a time: slow, with any layer, and with no step to choose."""

    takes_gradients = True

    def prepare(self, store: Path | None = None) -> None:
        """The anchors' step."""
        self.batches.budget.most = 1
        self._steps = self.anchor_steps()

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """One sample's gradient, and its product with the step of each cell."""
        losses, tokens = self.losses(batch)
        own = gradients(losses.sum(), list(self.weights.values()))
        utility = sum(
            torch.einsum("d...,...->d", steps.double(), part.double())
            for steps, part in zip(self._steps.values(), own, strict=True)
        )
        return self.batch_scores(utility[None], losses.detach(), tokens, batch)


def _precise(proxy: Checkpoint, settings: Score) -> tuple[Checkpoint, str]:
    """The proxy to compute the reference with, and its arithmetic: a copy in float64 where that fits, else itself."""
    moved = sum(
        weight.numel() for weight in scored_weights(untied(proxy, settings.layers).model, settings.layers).values()
    )
    needed = 8 * (sum(weight.numel() for weight in proxy.model.parameters()) + COPIES * moved)
    if needed > ROOM * memory_of(proxy.model.device).free:
        return proxy, "fp32"
    return in_float64(proxy), "float64"


def _utility(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    settings: Score,
    samples: Sequence[Sample],
    execution: Execution | None,
) -> np.ndarray:
    """Utilities (n,) by settings that take all anchors as one cell."""
    return matrix(prepared_scorer(proxy, anchors, settings, execution=execution).rows(samples), "by_cell")[:, 0]


def _rows(
    samples: Sequence[Sample], utility: np.ndarray, halves: np.ndarray, other: np.ndarray, arithmetic: str
) -> pa.Table:
    ids, by = [sample.id for sample in samples], [arithmetic] * len(samples)
    return pa.table({"id": ids, "utility": utility, "halves": lists(halves), "other": other, "arithmetic": by})


def agreement(one: np.ndarray, other: np.ndarray) -> Agreement:
    """Rank agreement of two scores (n,), over the samples where both are finite; NaN for fewer than three."""
    finite = np.isfinite(one) & np.isfinite(other)
    one, other = one[finite], other[finite]
    if len(one) < 3:
        return Agreement(float("nan"), float("nan"))
    top = max(1, round(TOP * len(one)))
    heads = (set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (one, other))
    return Agreement(float(spearmanr(one, other).statistic), len(set.intersection(*heads)) / top)


def warnings_of(checks: Checks, method: Method) -> list[str]:
    """A warning, with its remedy, for each figure of the checks that is too low."""
    found = []
    if checks.fidelity.spearman < FIDELITY:
        found.append(
            f"the scores rank only {checks.fidelity.spearman:.3f} like the simulated step in {checks.arithmetic}: set "
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
