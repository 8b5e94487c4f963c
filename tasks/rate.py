"""Stages `rate-*`: what the arms have to know about each pool sample before they can choose.

The pool is read as it is gone through; of all of it, numbers and texts are held, and no images.
"""

import math
import shutil

import numpy as np
import pyarrow as pa

from ost.baselines.deita import load_embedder, load_rater
from ost.baselines.deita import rate as rate_by_deita
from ost.baselines.finevision import rated
from ost.baselines.judge import Chat, LocalChat, Verdicts, judge
from ost.baselines.less import less
from ost.baselines.low_loss import low_loss
from ost.baselines.reference_models import color, rho
from ost.config import Params
from ost.cost import Cost, Stopwatch
from ost.data import Dataset, content_digest
from ost.models import Checkpoint, add_adapter, load_checkpoint, resolve_device
from ost.store import lists, write_table
from ost.training import Recipe, train
from ost.types import Method
from tasks.chat_server import ChatServer
from tasks.context import Context, Outcome
from tasks.harm import truth_of
from tasks.score import score_pool, scoring_outcome
from tasks.warmup import warmup_lessons


def rate_one_step(ctx: Context) -> Outcome:
    """The paper's utility, by the method that `score` names, or by `gradient` where that looks further ahead."""
    method = ctx.params.score.method
    return _rate_by_score(ctx, "one-step", "gradient" if method == "lookahead" else method)


def rate_lookahead(ctx: Context) -> Outcome:
    """What many steps on the anchors gain of each sample's loss."""
    return _rate_by_score(ctx, "lookahead", "lookahead")


def rate_loss(ctx: Context) -> Outcome:
    """The warm proxy's loss on each sample."""
    pool, proxy = ctx.samples("pool"), _warm_proxy(ctx)
    scores, cost = low_loss(pool, proxy, ctx.params.score.batch_size, ctx.progress)
    return Outcome({"loss": -float(np.mean(scores))}, cost, datasets=_write(ctx, "loss", pool.ids(), score=scores))


def rate_color(ctx: Context) -> Outcome:
    """CoLoR-Filter: what the warm proxy's loss on each sample falls by once it is trained on the anchors."""
    pool, anchors = ctx.samples("pool"), ctx.samples("anchors")
    recipe, batch_size = _anchor_recipe(ctx.params, len(anchors)), ctx.params.score.batch_size
    scores, cost = color(pool, anchors, _warm_proxy(ctx), recipe, batch_size=batch_size, progress=ctx.progress)
    digest = _write(ctx, "color", pool.ids(), score=scores)
    return Outcome({"reducible": float(np.mean(scores))}, cost, datasets=digest)


def rate_rho(ctx: Context) -> Outcome:
    """RHO-LOSS: the warm proxy's loss on each sample beyond that of the base proxy trained on the anchors alone."""
    params, base = ctx.params, load_checkpoint(ctx.input("models/proxy"), resolve_device(ctx.params.compute.device))
    pool, anchors = ctx.samples("pool"), ctx.samples("anchors")
    if params.warmup.lora_rank:
        add_adapter(base.model, params.warmup.lora_rank, params.seed)
    recipe, batch_size = _anchor_recipe(params, len(anchors)), params.score.batch_size
    scores, cost = rho(pool, anchors, _warm_proxy(ctx), base, recipe, batch_size=batch_size, progress=ctx.progress)
    digest = _write(ctx, "rho", pool.ids(), score=scores)
    return Outcome({"reducible": float(np.mean(scores))}, cost, datasets=digest)


def rate_less(ctx: Context) -> Outcome:
    """LESS on an adapter of the proxy that is warmed up here: it needs Adam's whole state."""
    watch, params = Stopwatch(), ctx.params
    proxy = load_checkpoint(ctx.input("models/proxy"), resolve_device(params.compute.device))
    pool, anchors = ctx.samples("pool"), ctx.samples("anchors")
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
    digest = _write(ctx, "less", pool.ids(), score=scores)
    return Outcome({"loss": trained.loss}, Cost(watch.seconds, trained.cost.flops + cost.flops), datasets=digest)


def rate_deita(ctx: Context) -> Outcome:
    """Complexity times quality by a language model, and embeddings for the diversity filter."""
    watch, settings = Stopwatch(), ctx.params.deita
    pool, device = ctx.samples("pool"), resolve_device(ctx.params.compute.device)
    rater, embedder = load_rater(settings.rater, device), load_embedder(settings.embedder, device)
    found = rate_by_deita(pool, rater, embedder, ctx.progress)
    columns = {name: getattr(found, name) for name in ("score", "complexity", "quality")}
    digest = _write(ctx, "deita", pool.ids(), **columns, embedding=lists(found.embeddings.astype(np.float16)))
    metrics = {name: float(np.mean(getattr(found, name))) for name in ("complexity", "quality")}
    return Outcome(metrics, Cost(watch.seconds, found.flops), datasets=digest)


def rate_judge(ctx: Context) -> Outcome:
    """What the judge says of each sample, and how it does on the anchors, whose answers are trusted."""
    settings, match = ctx.params.judge, ctx.params.evaluate.match
    model = _judge(ctx)
    pool, anchors = ctx.samples("pool"), ctx.samples("anchors")
    watch = Stopwatch()
    said = judge(pool, model, settings.mode, match, ctx.progress)
    cost = Cost(watch.seconds, model.flops)
    tokens = {name: float(getattr(model, name)) for name in ("prompt_tokens", "completion_tokens")}  # of the pool alone
    digest = _write(ctx, "judge", pool.ids(), reply=pa.array(said.replies, pa.string()), agrees=said.agrees)
    warnings = _unanswered(said, pool, model, "pool samples")
    trusted = judge(anchors, model, settings.mode, match)
    warnings += _unanswered(trusted, anchors, model, "anchors")
    shares = {"kept": said.share, "unanswered": len(said.unanswered) / len(pool), "agrees_with_anchors": trusted.share}
    return Outcome(shares | tokens, cost, warnings, digest)


def rate_rated(ctx: Context) -> Outcome:
    """The ratings that came with the pool."""
    watch = Stopwatch()
    table = rated(ctx.samples("pool").table(["id", "ratings"]))
    ids, least = table["id"].to_pylist(), table["least"].to_numpy()
    digest = _write(ctx, "rated", ids, **{name: table[name] for name in table.column_names[1:]})
    known = np.isfinite(least)
    warnings = []
    if not known.all():
        warnings.append(f"{(~known).sum():,} of {len(ids):,} samples came without ratings; `rated` keeps none of them")
    metrics = {"rated": float(known.mean()), "least": float(least[known].mean())}
    return Outcome(metrics, Cost(watch.seconds), warnings, digest)


def rate_truth(ctx: Context) -> Outcome:
    """Which of the samples that ingestion let through are wrong: for the arms that are ceilings, and for no other."""
    watch, pool = Stopwatch(), ctx.samples("pool")
    wrong = truth_of(ctx.input("data/truth.parquet"), pool.ids())
    digest = _write(ctx, "truth", pool.ids(), wrong=wrong)
    return Outcome({"wrong": float(np.mean(wrong))}, Cost(watch.seconds), datasets=digest)


def _rate_by_score(ctx: Context, name: str, method: Method) -> Outcome:
    """A score table by one method, all other settings as `score` has them.

    A killed run goes on where it stood; a finished one leaves no rows behind, so that the next counts its whole cost.
    """
    settings, store = ctx.params.score, f".ost/{name}"
    detail = None if (method, settings.detail) == ("lookahead", "groups") else settings.detail  # it knows no tasks
    scored = score_pool(ctx, settings.model_copy(update={"method": method, "detail": detail}), store)
    write_table(ctx.output(f"ratings/{name}.parquet"), scored.table)
    shutil.rmtree(ctx.root / store)
    return scoring_outcome(ctx, scored)


def _warm_proxy(ctx: Context) -> Checkpoint:
    ctx.input("models/proxy")  # an adapter's base
    return load_checkpoint(ctx.input("models/proxy-warm"), resolve_device(ctx.params.compute.device))


def _anchor_recipe(params: Params, anchors: int) -> Recipe:
    """How a reference model is trained: `holdout.epochs` passes over the anchors, at the warm-up's rate."""
    return Recipe(
        steps=params.holdout.epochs * math.ceil(anchors / params.sft.batch_size),
        batch_size=params.sft.batch_size,
        learning_rate=params.warmup.learning_rate,
        seed=params.seed,
    )


def _judge(ctx: Context) -> Chat:
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


def _unanswered(said: Verdicts, samples: Dataset, model: Chat, named: str) -> list[str]:
    """What a person should know of samples that the judge gave no answer to."""
    if not said.unanswered:
        return []
    first = samples[said.unanswered[0]].id
    return [
        f"the judge gave no answer to {len(said.unanswered):,} of {len(samples):,} {named}, such as {first}: these "
        f"count as not agreed with; the last time: {model.refusal}"
    ]


def _write(ctx: Context, name: str, ids: list[str], **columns) -> dict[str, str]:
    """Publish a rating of the pool, a row for each of its ids; returns the pool's digest by its name."""
    write_table(ctx.output(f"ratings/{name}.parquet"), pa.table({"id": ids, **columns}))
    return {"pool": content_digest(ids)}
