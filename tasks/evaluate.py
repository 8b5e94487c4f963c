"""Stage `evaluate`: one model on the benchmark."""

import pyarrow as pa

from ost.cost import Cost, Stopwatch
from ost.data import content_digest
from ost.evaluation import evaluate as run_benchmark
from ost.evaluation import matches
from ost.models import load_checkpoint, resolve_device
from ost.store import read_json, write_json, write_table
from tasks.context import MANIFEST, Context, Outcome
from tasks.runs import BASE

FOLDERS = {BASE: "models/target", "judge": "models/judge", "champion": "models/champion"}
"""Models that are evaluated as they came."""


def evaluate(ctx: Context) -> Outcome:
    """Accuracy, whole and by task, with every answer kept; beside it what the training took."""
    watch, settings = Stopwatch(), ctx.params.evaluate
    folder = FOLDERS.get(ctx.key, f"models/sft/{ctx.key}")
    manifest = read_json(ctx.input(folder + MANIFEST))
    model = load_checkpoint(ctx.input(folder), resolve_device(ctx.params.compute.device))
    benchmark = ctx.samples("benchmark")
    result = run_benchmark(
        model,
        benchmark,
        match=settings.match,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        progress=ctx.progress,
    )
    hits = [matches(text, s.answer, settings.match) for text, s in zip(result.predictions, benchmark, strict=True)]
    predictions = {"id": benchmark.ids(), "prediction": result.predictions, "correct": hits}
    write_table(ctx.output(f"evaluations/{ctx.key}.parquet"), pa.table(predictions))
    training = _training({} if ctx.key in FOLDERS else manifest)
    record = {"accuracy": result.accuracy, "by_task": result.by_task, **training}
    write_json(ctx.output(f"evaluations/{ctx.key}.json"), record)
    by_task = {f"accuracy/{task or 'untitled'}": value for task, value in result.by_task.items()}
    digests = {"benchmark": content_digest(benchmark.ids())}
    return Outcome({"accuracy": result.accuracy} | by_task, Cost(watch.seconds), datasets=digests)


def _training(manifest: dict) -> dict:
    metrics = manifest.get("metrics", {})
    return {
        "samples": int(metrics.get("samples", 0)),
        "steps": int(metrics.get("steps", 0)),
        "train_seconds": manifest.get("seconds", 0.0),
        "train_flops": manifest.get("flops", 0.0),
    }
