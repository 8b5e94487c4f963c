"""Stage `ingest`: read the three sample sets, keep what can be trained on, and say why the rest cannot."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from ost.cost import Cost, Stopwatch
from ost.data import content_digest, write_samples
from ost.ingestion import Broken, write_quarantine
from ost.ingestion import ingest as read_and_check
from ost.models import check_pair, load_checkpoint, load_config
from ost.store import publish, write_json
from tasks.context import Context, Outcome
from tasks.storage import Fetched, fetch, is_remote


def ingest(ctx: Context) -> Outcome:
    """Check that proxy and target belong together, then the data; what is refused goes to the quarantine table."""
    watch, params = Stopwatch(), ctx.params
    target, proxy = ctx.input("models/target"), ctx.input("models/proxy")
    check_pair(load_config(proxy), load_config(target), params.models.allow_cross_family)
    sources = {name: _source(ctx, name) for name in ("pool", "anchors", "benchmark")}
    ingested = read_and_check(
        *(source.path for source in sources.values()),
        load_checkpoint(target),
        max_tokens=params.data.max_tokens,
        max_pixels=params.data.max_pixels,
        refused={name: [Broken(why, "broken-file") for why in source.refused] for name, source in sources.items()},
        progress=ctx.progress,
    )
    sets = {"pool": ingested.pool, "anchors": ingested.anchors, "benchmark": ingested.benchmark}
    for name, samples in sets.items():
        write_samples(ctx.output(f"data/{name}.parquet"), samples)
    write_quarantine(ctx.output("data/quarantine.parquet"), ingested.quarantine)
    _pass_on_truth(ctx)
    digests = {name: content_digest(sample.id for sample in samples) for name, samples in sets.items()}
    write_json(ctx.output("metrics/ingest.json"), {"counts": ingested.counts, "digests": digests})
    sizes = {f"{name}_samples": float(len(samples)) for name, samples in sets.items()}
    return Outcome(
        sizes | {"quarantined": float(len(ingested.quarantine))}, Cost(watch.seconds), ingested.warnings, digests
    )


def _source(ctx: Context, name: str) -> Fetched:
    """Where a sample set can be read; one in object storage is mirrored first, and DVC keeps its version."""
    address = getattr(ctx.params.data, name)
    if is_remote(address):
        return fetch(address, ctx.root / ".ost/remote" / name, ctx.progress)
    return Fetched(ctx.input(address), [])


def _pass_on_truth(ctx: Context) -> None:
    """Copy the table of known errors unread, or an empty one: the audit is its only reader."""
    with publish(ctx.output("data/truth.parquet")) as part:
        if ctx.params.data.truth:
            shutil.copyfile(ctx.input(ctx.params.data.truth), part)
        else:
            pq.write_table(pa.table({"id": pa.array([], pa.string()), "wrong": pa.array([], pa.bool_())}), part)
