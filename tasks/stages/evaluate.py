"""Stage `evaluate`: one model on the benchmark."""

from pathlib import Path

import pyarrow as pa

from ost.arms.plan import BASE
from ost.cost import Cost, Stopwatch
from ost.data import content_digest
from ost.evaluation.benchmarks import by_file
from ost.evaluation.evaluate import Evaluation, metrics_told
from ost.evaluation.evaluate import evaluate as run_benchmark
from ost.evaluation.metrics import AUTO
from ost.models import Checkpoint, load_checkpoint, resolve_device
from ost.store import read_json, write_json, write_table
from tasks.pipeline import MANIFEST
from tasks.plan import Plan
from tasks.stages.context import Context, Outcome
from tasks.stages.suite import evaluate_by_suite


def evaluate(ctx: Context) -> Outcome:
    """Accuracy, whole and by task, with every answer kept; beside it what the training took."""
    untrained = Plan(ctx.params).untrained
    folder = untrained.get(ctx.key, f"models/sft/{ctx.key}")
    manifest, path = read_json(ctx.input(folder + MANIFEST)), ctx.input(folder)
    by_suite = ctx.params.evaluate.suite is not None
    model = path if by_suite else load_checkpoint(path, resolve_device(ctx.params.compute.device))
    return evaluate_model(ctx, model, _training({} if ctx.key in untrained else manifest))


def evaluate_model(ctx: Context, model: Checkpoint | Path, training: dict) -> Outcome:
    """Write evaluations/KEY.json and .parquet for a model; `training`: what its training took.

    The folder of a model, in place of one that is loaded, is for a suite alone. A model is on the CPU after a suite,
    and its adapter merged.
    """
    watch, settings = Stopwatch(), ctx.params.evaluate
    ids, result = evaluate_by_suite(ctx, model) if settings.suite else _on_benchmark(ctx, model)
    answers = {
        "id": ids,
        "prediction": result.predictions,
        "score": result.scores,
        "correct": result.correct,
        "cut": result.cut,
        "cluster": result.clusters,
    }
    write_table(ctx.output(f"evaluations/{ctx.key}.parquet"), pa.table(answers))
    record = {
        "accuracy": result.accuracy,
        "interval": list(result.interval),
        "by_task": result.by_task,
        "metric": None if settings.suite else settings.metric,
        "metrics": result.metrics,
        "max_new_tokens": result.max_new_tokens,
        "longer": result.longer,
        "cut": result.cut_share,
        "empty": result.empty_share,
    }
    write_json(ctx.output(f"evaluations/{ctx.key}.json"), record | training)
    by_task = {f"accuracy/{task or 'untitled'}": value for task, value in result.by_task.items()}
    digests = {"benchmark": content_digest(ids)}
    warnings = list(result.warnings)
    if not settings.suite and settings.metric == AUTO and ctx.key == BASE:  # the same for every model
        warnings.insert(0, f"evaluate.metric is auto, and took {metrics_told(result.metrics)}: set it if that is wrong")
    return Outcome({"accuracy": result.accuracy} | by_task, Cost(watch.seconds), warnings, digests)


def _on_benchmark(ctx: Context, model: Checkpoint) -> tuple[list[str], Evaluation]:
    """The samples' names, and how a model answers the workspace's own benchmark."""
    benchmark, settings = by_file(ctx.samples("benchmark")), ctx.params.evaluate
    how = {"metric": settings.metric, "max_new_tokens": settings.max_new_tokens}
    return benchmark.ids(), run_benchmark(model, benchmark, **how, execution=ctx.params.compute, progress=ctx.progress)


def _training(manifest: dict) -> dict:
    metrics = manifest.get("metrics", {})
    return {
        "samples": int(metrics.get("samples", 0)),
        "steps": int(metrics.get("steps", 0)),
        "train_seconds": manifest.get("seconds", 0.0),
        "train_flops": manifest.get("flops", 0.0),
    }
