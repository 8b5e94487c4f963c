"""Stage `select`: which samples each arm trains on, with a reason for every sample left out."""

from ost.cost import Cost, Stopwatch
from ost.scoring import read_scores
from ost.selection import ARMS, clean_warnings, expected_purity, select_arm, toxic_list
from ost.store import write_table
from tasks.context import Context, Outcome


def select(ctx: Context) -> Outcome:
    """One table an arm, and the list of toxic samples."""
    watch, settings = Stopwatch(), ctx.params.select
    scores = read_scores(ctx.input("scores/utility.parquet"))
    metrics = {}
    for arm in ARMS:
        table = select_arm(arm, scores, settings, ctx.params.seed)
        write_table(ctx.output(f"selections/{arm}.parquet"), table)
        metrics[f"{arm}_kept"] = float(len(table) - table["rank"].null_count)
        purity = expected_purity(table)
        if purity is not None:
            metrics[f"{arm}_expected_purity"] = purity
    toxic = toxic_list(scores)
    write_table(ctx.output("selections/toxic.parquet"), toxic)
    return Outcome(metrics | {"toxic": float(len(toxic))}, Cost(watch.seconds), clean_warnings(scores, settings))
