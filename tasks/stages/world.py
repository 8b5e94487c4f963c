"""Stage `world`: the built-in world's three sample sets, and the truth about its pool."""

import pyarrow as pa
import pyarrow.parquet as pq

from ost.cost import Cost, Stopwatch
from ost.data import write_samples
from ost.store import publish, write_table
from ost.worlds import world_of
from ost.worlds.teacher import answer_pool, turn_truth
from tasks.stages.context import Context, Outcome


def world(ctx: Context) -> Outcome:
    """Draw the problems, let the faulty teacher answer the pool, and keep apart what it got wrong."""
    watch, params = Stopwatch(), ctx.params
    sizes, world = params.world, world_of(params.world.name)
    problems = world.draw("pool", sizes.pool, params.seed)
    pool, wrong = answer_pool(world, problems, sizes, params.base, params.seed, ctx.progress)
    write_samples(ctx.output("world/pool.parquet"), pool)
    if sizes.has_turns:
        right = list(map(world.to_sample, problems))
        write_table(ctx.output("world/truth-turns.parquet"), turn_truth(pool, right))
    for split, count, among in (
        ("anchors", sizes.anchors, sizes.anchor_tasks),
        ("benchmark", sizes.benchmark, None),
    ):
        problems = world.draw(split, count, params.seed, among)
        write_samples(ctx.output(f"world/{split}.parquet"), map(world.to_sample, problems))
    with publish(ctx.output("world/truth.parquet")) as part:
        pq.write_table(pa.table({"id": [sample.id for sample in pool], "wrong": wrong}), part)
    return Outcome({"wrong_share": sum(wrong) / len(wrong)}, Cost(watch.seconds))
