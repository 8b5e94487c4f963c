"""Stage `ingest`: read the three sample sets, keep what can be trained on, and say why the rest cannot."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from ost.cost import Cost, Stopwatch
from ost.data import content_digest
from ost.errors import DataError
from ost.formats import Broken
from ost.ingestion import ingest as read_and_check
from ost.ingestion import write_quarantine
from ost.models import check_pair, load_config
from ost.store import publish, write_json
from tasks.pipeline import ADDED, SETS, turns_known
from tasks.stages.context import Context, Outcome
from tasks.stages.sources import bring, watch


def ingest(ctx: Context) -> Outcome:
    """Check that proxy and target belong together, then the data; what is refused goes to the quarantine table."""
    stopwatch, params = Stopwatch(), ctx.params
    target, proxy = ctx.input("models/target"), ctx.input("models/proxy")
    check_pair(load_config(proxy), load_config(target), params.models.allow_cross_family)
    _check_truth(ctx)
    sources = {name: bring(ctx, name) for name in SETS}
    added = bring(ctx, ADDED) if params.data.added_anchors else None
    roots = tuple(str((ctx.root / folder).resolve()) for folder in params.data.image_roots)
    ingested = read_and_check(
        *(source.path for source in sources.values()),
        target,
        ctx.root / "data",
        params.data.model_copy(update={"image_roots": roots}),
        memory=ctx.root / ".ost/ingest",
        added=added.path if added else None,
        workers=params.compute.workers,
        refused={name: [Broken(why, "broken-file") for why in one.refused] for name, one in sources.items()},
        progress=ctx.progress,
    )
    unwatched = [note for name in SETS for note in watch(ctx, name, ingested.taken[name].beside)]
    for name in SETS:
        ctx.output(f"data/{name}")
    write_quarantine(ctx.output("data/quarantine.parquet"), ingested.quarantine)
    _pass_on_truth(ctx)
    digests = {name: content_digest(ingested[name].ids()) for name in SETS}
    write_json(ctx.output("metrics/ingest.json"), {"counts": ingested.counts, "digests": digests})
    sizes = {f"{name}_samples": float(ingested.taken[name].kept) for name in SETS}
    quarantined = float(len(ingested.quarantine))
    warnings = [*ingested.warnings, *unwatched]
    return Outcome(sizes | {"quarantined": quarantined}, Cost(stopwatch.seconds), warnings, digests)


def _check_truth(ctx: Context) -> None:
    truth = ctx.params.data.truth
    if truth and not (ctx.root / truth).is_file():
        raise DataError(
            f"data.truth names {truth}, which is missing: set data.truth=null where nobody knows what is wrong"
        )


def _pass_on_truth(ctx: Context) -> None:
    """Copy the tables of known errors unread, or write an empty one; it is read by audits and ceilings alone."""
    truth = ctx.params.data.truth
    with publish(ctx.output("data/truth.parquet")) as part:
        if truth:
            shutil.copyfile(ctx.input(truth), part)
        else:
            pq.write_table(pa.table({"id": pa.array([], pa.string()), "wrong": pa.array([], pa.bool_())}), part)
    turns = turns_known(ctx.root, ctx.params)
    if turns is None:  # what an earlier pool left
        (ctx.root / "data/truth-turns.parquet").unlink(missing_ok=True)
    else:
        with publish(ctx.output("data/truth-turns.parquet")) as part:
            shutil.copyfile(ctx.input(turns), part)
