"""Score a pool: the methods by name, and the table that comes out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from ost.cost import BACKWARD, Cost, Stopwatch, forward_flops
from ost.data import Sample
from ost.errors import DataError
from ost.models import Checkpoint
from ost.scoring.exact import exact
from ost.scoring.settings import Chunk, Settings
from ost.scoring.transposed import transposed
from ost.store import read_table
from ost.types import Method, Progress, Reduction, silent

METHODS: dict[Method, Callable[[Checkpoint, Sequence[Sample], Sequence[Sample], Settings], Iterator[Chunk]]] = {
    "exact": exact,
    "transposed": transposed,
}


@dataclass(frozen=True)
class Scored:
    """A score table and what it cost."""

    table: pa.Table
    """N rows in pool order: `id, utility, toxic, loss, tokens, task`."""
    cost: Cost

    @property
    def toxic_share(self) -> float:
        """Share of the pool with negative utility."""
        return pc.mean(self.table["toxic"].cast(pa.float64())).as_py()

    @property
    def quarantined(self) -> list[str]:
        """Ids of samples whose loss or utility is not finite."""
        return self.table.filter(pc.invert(pc.is_finite(self.table["utility"])))["id"].to_pylist()


def score(
    pool: Sequence[Sample],
    anchors: Sequence[Sample],
    proxy: Checkpoint,
    method: Method = "transposed",
    *,
    step: float = 1e-3,
    reduction: Reduction = "mean",
    batch_size: int = 64,
    progress: Progress = silent,
) -> Scored:
    """Utility of every pool sample for the anchor loss (arXiv:2605.07488), positive where training on it helps.

    A sample with negative utility is `toxic`. A sample whose loss is not finite keeps a NaN utility and is never toxic:
    it is quarantined. Raises DataError for an empty pool or anchor set.
    """
    if not pool or not anchors:
        raise DataError(f"scoring needs a pool and anchors; found {len(pool)} and {len(anchors)} samples")
    watch = Stopwatch()
    settings = Settings(step=step, reduction=reduction, batch_size=batch_size)
    chunks: list[Chunk] = []
    done = 0
    for chunk in METHODS[method](proxy, pool, anchors, settings):
        chunks.append(chunk)
        done += len(chunk.loss)
        progress(done, len(pool), f"scoring ({method})")
    flops = forward_flops(proxy, pool) * _forwards(method, len(pool), len(anchors))
    return Scored(_table(pool, chunks), Cost(watch.seconds, flops))


def _forwards(method: Method, pool: int, anchors: int) -> int:
    """Forward-pass equivalents that a method runs."""
    if method == "exact":
        return pool * (1 + BACKWARD + anchors) + anchors
    return 2 * pool + (1 + BACKWARD) * anchors


def _table(pool: Sequence[Sample], chunks: Sequence[Chunk]) -> pa.Table:
    utility = torch.cat([chunk.utility for chunk in chunks])
    loss = torch.cat([chunk.loss for chunk in chunks])
    utility = torch.where(loss.isfinite() & utility.isfinite(), utility, torch.nan)
    return pa.table(
        {
            "id": pa.array([sample.id for sample in pool]),
            "utility": pa.array(utility.numpy()),
            "toxic": pa.array((utility < 0).numpy()),
            "loss": pa.array(loss.numpy()),
            "tokens": pa.array(torch.cat([chunk.tokens for chunk in chunks]).to(torch.int32).numpy()),
            "task": pa.array([sample.task for sample in pool]),
        }
    )


def read_scores(path: str | Path) -> pa.Table:
    """A score table from Parquet; raises DataError where a column is missing or there is no row."""
    table = read_table(path)
    missing = [name for name in ("id", "utility", "toxic", "loss", "task") if name not in table.column_names]
    if missing or not len(table):
        raise DataError(f"{path} is no score table: {len(table)} rows, without {missing}; make one with `ost score`")
    return table
