"""Stage `select`: what one arm keeps at one fraction, with a reason for every sample left out."""

import pyarrow as pa

from ost.arms import POOL, TRUTH, Arm
from ost.arms.plan import Subset
from ost.cost import Cost, Stopwatch
from ost.selection import expected_purity, kept_ids, mask_turns, masks_of
from ost.store import read_table, write_table
from tasks.stages.context import Context, Outcome
from tasks.stages.harm import truth_of


def select(ctx: Context) -> Outcome:
    """Choose by what the arm knows."""
    watch, subset = Stopwatch(), Subset.parse(ctx.key)
    known = _known(ctx, subset.arm)
    table = subset.arm.choose(known, subset.share, ctx.params)
    metrics = {}
    if subset.arm.utility and ctx.params.select.unit == "turn":
        turns = read_table(ctx.input(f"scores/{subset.arm.by.name}-turns.parquet"))
        table = mask_turns(table, known, turns, ctx.params.select)
        metrics["masked_turns"] = float(sum(map(len, masks_of(table).values())))
    write_table(ctx.output(f"selections/{subset.key}.parquet"), table)
    kept, purity = len(kept_ids(table)), expected_purity(table)
    metrics |= {"samples": float(kept), "pool": float(len(table)), "share": kept / len(table)}
    metrics |= {} if purity is None else {"expected_purity": purity}
    return Outcome(metrics, Cost(watch.seconds), subset.arm.warn(known, ctx.params, subset.share))


def _known(ctx: Context, arm: Arm) -> pa.Table:
    """What the arm chooses by: the pool's ids, the truth about them, or scores."""
    if arm.by not in (POOL, TRUTH):
        return read_table(ctx.input(f"scores/{arm.by.name}.parquet"))
    ids = ctx.samples("pool").table(["id"])
    if arm.by == POOL:
        return ids
    return ids.append_column("wrong", pa.array(truth_of(ctx.input("data/truth.parquet"), ids["id"].to_pylist())))
