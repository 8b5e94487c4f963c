"""Stage `choose@KEY`: what one arm keeps at one fraction, with a reason for every sample left out."""

import pyarrow as pa

from ost.comparison import ARMS, RATINGS, Subset
from ost.cost import Cost, Stopwatch
from ost.data import Dataset
from ost.selection import kept_ids
from ost.store import read_table, write_table
from tasks.context import Context, Outcome


def choose(ctx: Context) -> Outcome:
    """Choose by the arm's rating."""
    watch, subset = Stopwatch(), Subset.parse(ctx.key)
    arm = ARMS[subset.arm]
    rating = _read(ctx, RATINGS[arm.rating].table)
    table = arm.choose(rating, subset.fraction, ctx.params)
    write_table(ctx.output(f"selections/{subset.key}.parquet"), table)
    kept = len(kept_ids(table))
    return Outcome({"samples": float(kept), "share": kept / len(table)}, Cost(watch.seconds))


def _read(ctx: Context, path: str) -> pa.Table:
    full = ctx.input(path)
    return Dataset(full).table(["id"]) if path == "data/pool" else read_table(full)
