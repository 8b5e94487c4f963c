"""Stages `rate-*`: what the rival arms have to know about each pool sample before they can choose."""

import numpy as np
import pyarrow as pa

from ost.baselines.deita import load_embedder, load_rater
from ost.baselines.deita import rate as rate_by_deita
from ost.baselines.judge import LocalChat, judge
from ost.baselines.less import less
from ost.baselines.low_loss import low_loss
from ost.cost import Cost, Stopwatch
from ost.data import Sample, content_digest
from ost.models import add_adapter, load_checkpoint, resolve_device
from ost.store import lists, write_table
from ost.training import train
from tasks.chat_server import ChatServer
from tasks.context import Context, Outcome
from tasks.harm import truth_of
from tasks.warmup import warmup_lessons


def rate_loss(ctx: Context) -> Outcome:
    """The warm proxy's loss on each sample."""
    ctx.input("models/proxy")  # an adapter's base
    proxy = load_checkpoint(ctx.input("models/proxy-warm"), resolve_device(ctx.params.compute.device))
    pool = ctx.samples("data/pool.parquet")
    scores, cost = low_loss(pool, proxy, ctx.params.score.batch_size, ctx.progress)
    _write(ctx, "loss", pool, score=scores)
    return Outcome({"loss": -float(np.mean(scores))}, cost, datasets=_digest(pool))


def rate_less(ctx: Context) -> Outcome:
    """LESS on an adapter of the proxy that is warmed up here: it needs Adam's whole state."""
    watch, params = Stopwatch(), ctx.params
    proxy = load_checkpoint(ctx.input("models/proxy"), resolve_device(params.compute.device))
    pool, anchors = ctx.samples("data/pool.parquet"), ctx.samples("data/anchors.parquet")
    recipe, seen = warmup_lessons(params, pool)
    add_adapter(proxy.model, params.less.lora_rank, params.seed)
    trained = train(proxy, seen, recipe, ctx.progress)
    scores, cost = less(
        pool,
        anchors,
        proxy,
        trained.moments,
        dimensions=params.less.dimensions,
        batch_size=params.score.batch_size,
        progress=ctx.progress,
    )
    _write(ctx, "less", pool, score=scores)
    return Outcome({"loss": trained.loss}, Cost(watch.seconds, trained.cost.flops + cost.flops), datasets=_digest(pool))


def rate_deita(ctx: Context) -> Outcome:
    """Complexity times quality by a language model, and embeddings for the diversity filter."""
    watch, settings = Stopwatch(), ctx.params.deita
    pool = ctx.samples("data/pool.parquet")
    found = rate_by_deita(pool, load_rater(settings.rater), load_embedder(settings.embedder), ctx.progress)
    columns = {name: getattr(found, name) for name in ("score", "complexity", "quality")}
    _write(ctx, "deita", pool, **columns, embedding=lists(found.embeddings.astype(np.float16)))
    metrics = {name: float(np.mean(getattr(found, name))) for name in ("complexity", "quality")}
    return Outcome(metrics, Cost(watch.seconds, found.flops), datasets=_digest(pool))


def rate_judge(ctx: Context) -> Outcome:
    """What the judge says of each sample, and how it does on the anchors, whose answers are trusted."""
    settings, match = ctx.params.judge, ctx.params.evaluate.match
    model = _judge(ctx)
    pool, anchors = ctx.samples("data/pool.parquet"), ctx.samples("data/anchors.parquet")
    watch = Stopwatch()
    said = judge(pool, model, settings.mode, match, ctx.progress)
    cost = Cost(watch.seconds, model.flops)
    _write(ctx, "judge", pool, reply=said.replies, agrees=said.agrees)
    metrics = {
        name: float(getattr(model, name)) for name in ("prompt_tokens", "completion_tokens")
    }  # of the pool alone
    trusted = judge(anchors, model, settings.mode, match)
    metrics = {"kept": said.share, **metrics, "agrees_with_anchors": trusted.share}
    return Outcome(metrics, cost, datasets=_digest(pool))


def rate_truth(ctx: Context) -> Outcome:
    """Which of the samples that ingestion let through are wrong: for the arms that are ceilings, and for no other."""
    watch, pool = Stopwatch(), ctx.samples("data/pool.parquet")
    wrong = truth_of(ctx.input("data/truth.parquet"), [sample.id for sample in pool])
    _write(ctx, "truth", pool, wrong=wrong)
    return Outcome({"wrong": float(np.mean(wrong))}, Cost(watch.seconds), datasets=_digest(pool))


def _judge(ctx: Context) -> LocalChat | ChatServer:
    settings, name = ctx.params.judge, ctx.params.models.judge
    if settings.server:
        return ChatServer(
            name or "default",
            settings.server,
            ctx.root / ".ost/judge",
            max_tokens=settings.max_tokens,
            concurrency=settings.concurrency,
            requests_per_minute=settings.requests_per_minute,
        )
    folder = ctx.input("models/judge" if name else "models/target")
    checkpoint = load_checkpoint(folder, resolve_device(ctx.params.compute.device))
    return LocalChat(checkpoint, ctx.params.evaluate.batch_size, settings.max_tokens)


def _write(ctx: Context, name: str, pool: list[Sample], **columns) -> None:
    write_table(ctx.output(f"ratings/{name}.parquet"), pa.table({"id": [sample.id for sample in pool], **columns}))


def _digest(pool: list[Sample]) -> dict[str, str]:
    return {"pool": content_digest(sample.id for sample in pool)}
