"""What scoring gives: the score table, a table of turns, and what is told beside them."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.cost import Cost
from ost.errors import DataError
from ost.scoring.checks import Checks
from ost.scoring.methods.anchor_training import Plan
from ost.scoring.precision import Settled, Way
from ost.selection.signal import Signal, signal_of
from ost.store import read_table


@dataclass(frozen=True)
class Spent:
    """What one run did for a score table, of which earlier runs may have made the rest."""

    scored: int
    """Samples that it scored."""
    seconds: float
    """Of wall clock."""


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
    """Of all that the table stands on, in this run and in earlier ones."""
    plan: Plan | None = None
    """Of `lookahead`: how many steps were taken, and why."""
    settled: Settled = field(default_factory=lambda: Settled(Way("fp32")))
    """The arithmetic that the pool was scored in, the length of the step where there is one, and what was tried."""
    batch_tokens: int = 0
    """Tokens, padding counted, that went through the proxy at once in the end."""
    peak_bytes: int = 0
    """The most memory that was held, of the accelerator, or resident."""
    turns: pa.Table | None = None
    """A row a learned turn, see `turn_table`; None for a method that does not tell turns apart."""

    notes: tuple[str, ...] = ()
    """What the proxy's self-test found that a person should know."""
    spent: Spent = Spent(0, 0.0)
    """By this run alone."""

    @property
    def signal(self) -> Signal | None:
        """How well the scores tell anchors from the same with each other's answers; None where nobody looked."""
        return signal_of(self.table)

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
        found |= {"scored": float(self.spent.scored), "spent_seconds": self.spent.seconds}
        found |= {"batch_tokens": float(self.batch_tokens), "peak_gib": self.peak_bytes / 2**30}
        if self.checks:
            fidelity, lookahead = self.checks.fidelity.spearman, self.checks.lookahead.spearman
            found |= {"fidelity": fidelity, "stability": self.checks.stability, "lookahead": lookahead}
        if self.plan:
            found |= {"steps": float(self.plan.steps), "left_out_loss": self.plan.left_out_loss}
            found |= {"learning_rate": self.plan.learning_rate}
        if self.signal:
            found |= {"anchors_known": self.signal.knows, "anchors_ranked": self.signal.ranks}
        return found | {"anchor_loss": self.anchor_loss}

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using the scores."""
        found = [*self.notes, *(self.checks.warnings if self.checks else [])]
        if self.plan:
            found += self.plan.warnings
        if self.signal:
            found += self.signal.warnings
        if broken := self.quarantined:
            found.append(f"{len(broken)} sample(s) with a loss that is not finite, such as {broken[0]}")
        return found


def read_scores(path: str | Path) -> pa.Table:
    """A score table from Parquet; raises DataError where there is none, a column is missing or there is no row."""
    try:
        table = read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is no score table: the file is missing; make one with `ost score`") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no score table ({error}): make one with `ost score`") from error
    missing = [name for name in ("id", "utility", "toxic", "loss", "task") if name not in table.column_names]
    if missing or not len(table):
        raise DataError(f"{path} is no score table: {len(table)} rows, without {missing}; make one with `ost score`")
    return table


def turn_table(rows: pa.Table, offset: float | None) -> pa.Table | None:
    """A row a learned turn: `id` of its sample, `turn`, its message's index, `utility`, and `loss` in nats.

    With an offset c, `utility_relative` as well: utility / (loss + c). A sample whose turns can't be told apart by its
    tokens has none. None where the rows hold no turns.
    """
    if "turns" not in rows.column_names:
        return None
    column = rows["turns"].combine_chunks()
    turns = column.flatten()
    ids = rows["id"].take(pc.list_parent_indices(column))
    columns = {"id": ids, **{name: turns.field(name) for name in ("turn", "utility", "loss")}}
    if offset is not None:
        columns["utility_relative"] = pc.divide(columns["utility"], pc.add(columns["loss"], offset))
    return pa.table(columns)
