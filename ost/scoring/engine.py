"""What all shards of a pool have in common: the method, the checks, and the table at the end."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.config import Score
from ost.cost import BACKWARD, Cost
from ost.data import Sample
from ost.errors import DataError
from ost.models import Checkpoint
from ost.scoring.anchors import Cells, cells_of
from ost.scoring.checks import Checks, Reference
from ost.scoring.exact import ExactScorer
from ost.scoring.gradient import GradientScorer
from ost.scoring.lookahead import LookaheadScorer
from ost.scoring.losses import losses_of
from ost.scoring.rows import rows_of
from ost.scoring.scorer import Scorer
from ost.scoring.statistics import conformal_p, degrees_of_freedom, resolve, toxic_q
from ost.scoring.transposed import TransposedScorer
from ost.scoring.two_pass import moved_share
from ost.scoring.walk import Plan, draw_up
from ost.store import matrix
from ost.types import Method, Progress, silent

METHODS: dict[Method, type[Scorer]] = {
    "exact": ExactScorer,
    "gradient": GradientScorer,
    "transposed": TransposedScorer,
    "lookahead": LookaheadScorer,
}
PROBE = 16
"""Anchors that FLOPs are counted on."""


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
        checks = self.checks
        agreements = (
            {}
            if checks is None
            else {
                "fidelity": checks.fidelity.spearman,
                "stability": checks.stability,
                "lookahead": checks.lookahead.spearman,
            }
        )
        walked = (
            {"steps": float(self.plan.steps), "left_out_loss": self.plan.curve[self.plan.steps]} if self.plan else {}
        )
        return {"toxic_share": self.toxic_share} | agreements | walked | {"anchor_loss": self.anchor_loss}

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using the scores."""
        found = list(self.checks.warnings) if self.checks else []
        if self.plan:
            found += self.plan.warnings
        if broken := self.quarantined:
            found.append(f"{len(broken)} sample(s) with a loss that is not finite, such as {broken[0]}")
        return found


class Engine:
    """One proxy, one anchor set and one setting of `score`."""

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
        self,
        samples: Sequence[Sample],
        progress: Progress = silent,
        rows: Path | None = None,
        walk: Path | None = None,
    ) -> None:
        """What is settled before any sample is scored: how far `lookahead` walks, and the check's reference.

        `samples`: those that the run is checked on. `rows`, `walk`: files that the two are kept in.
        """
        if self.settings.method == "lookahead":
            self.plan = draw_up(self._walker(), walk, progress)
            ahead = self.settings.lookahead.model_copy(update={"steps": self.plan.steps})
            self.settings = self.settings.model_copy(update={"lookahead": ahead})
        if samples:
            self._check(samples, progress, rows)

    def _check(self, samples: Sequence[Sample], progress: Progress, rows: Path | None) -> None:
        """Score the check's samples by the reference; it decides about bf16 where `precision` is `auto`."""
        self.reference = Reference(self.proxy, self.anchors, self.settings, samples, progress, rows)
        if self.settings.precision == "auto" and self.on_accelerator:
            trial = self.scorer(bf16=True)
            utility = resolve(matrix(rows_of(trial, samples), "by_cell"), trial.cells).utility
            self.bf16 = self.reference.accepts(utility)

    def _walker(self) -> LookaheadScorer:
        """A scorer that has not walked yet, for the plan."""
        return LookaheadScorer(self.proxy, self.anchors, self.settings, walked=False)

    def scorer(self, bf16: bool | None = None) -> Scorer:
        """The method, ready to score."""
        return METHODS[self.settings.method](
            self.proxy, self.anchors, self.settings, self.bf16 if bf16 is None else bf16
        )

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
        found = resolve(matrix(rows, "by_cell"), self.cells)
        loss, freedom = rows["loss"].to_numpy(), degrees_of_freedom(self.cells)
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
    def cells(self) -> Cells:
        """The anchors as the run tells them apart."""
        return cells_of(self.anchors, self.settings)

    def _trusted(self) -> np.ndarray | None:
        """Utility (A,) of each anchor for the anchors outside its fold, by the same method; None where none is known.

        Where the utilities have a standard error it says all that `gradient` and `exact` need to know.
        """
        if self.plan:
            return self.plan.gains
        if degrees_of_freedom(self.cells):
            return None
        settings = self.settings.model_copy(update={"detail": "folds", "sketch": 0})
        return METHODS[settings.method](self.proxy, self.anchors, settings, self.bf16).held_out()

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
        anchors, full, cells = len(self.anchors), 1 + BACKWARD, len(self.cells.members)
        checked = self.reference.forwards if self.reference else 0
        match self.settings.method:
            case "exact":
                return pool * (full + anchors) + anchors + checked
            case "gradient":
                return (pool + anchors) * full + checked
            case "transposed":
                return (1 + (2 * cells - 1) * self._share) * pool + 2 * (1 + full) * anchors + checked
            case "lookahead":
                walks = self.plan.forwards + (cells * self.plan.steps * anchors * full if self.plan.forwards else 0)
                return (1 + cells * self._share) * pool + walks * self._share + checked

    @functools.cached_property
    def _share(self) -> float:
        """Share of a pass that is above what is computed once."""
        return moved_share(self._walker(), self.anchors[:PROBE])
