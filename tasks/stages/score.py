"""Stage `score`: what an arm has to know of each sample of the pool, such as its utility.

The pool is read as it is gone through; of all of it, numbers and texts are held, and no images.
"""

import shutil

from ost.anchors import contradicted, doubt_words
from ost.anchors.table import anchor_table
from ost.arms import ScoreTable, scores_of
from ost.baselines.judge import Chat, LocalChat
from ost.baselines.visual_gain import require_images, with_visual_gain
from ost.cost import Cost, Stopwatch
from ost.data import Dataset, content_digest
from ost.models import Checkpoint, load_checkpoint, resolve_device
from ost.scoring import Job, score_file
from ost.selection import toxic_list
from ost.store import write_json, write_table
from tasks.pipeline import ANCHORED, anchors_beside
from tasks.plan import Plan
from tasks.stages.chat_server import ChatServer
from tasks.stages.context import Context, Outcome
from tasks.stages.digests import Digests
from tasks.stages.ray_shards import runner

OF_THE_RUN = {"peak_gib", "scored", "spent_seconds"}
"""Metrics that no two runs have the same: they stand in the manifest, and not in a file that others depend on."""


def score(ctx: Context) -> Outcome:
    """Make one table of scores; the truth about the pool is out of reach here."""
    scores = scores_of(ctx.key)
    made = scores.make(Workspace(ctx))
    write_table(ctx.output(f"scores/{scores.name}.parquet"), made.rows)
    if scores.utility:
        write_table(ctx.output(f"scores/{scores.name}-toxic.parquet"), toxic_list(made.rows))
    turns = f"scores/{scores.name}-turns.parquet"
    if scores.tells_turns(ctx.params):
        write_table(ctx.output(turns), made.turns)
    else:  # what another method left
        (ctx.root / turns).unlink(missing_ok=True)
    found = {name: value for name, value in made.metrics.items() if name not in OF_THE_RUN}
    write_json(ctx.output(f"metrics/score-{scores.name}.json"), found | made.summary)
    digests = {name: content_digest(ctx.samples(name).ids()) for name in ("pool", "anchors") if name in scores.reads}
    return Outcome(made.metrics, made.cost, made.warnings, digests)


class Workspace:
    """The material of a workspace, as `ost.arms.Material` has it; everything taken from it counts as read."""

    def __init__(self, ctx: Context):
        self._ctx, self.params, self.progress = ctx, ctx.params, ctx.progress
        self.device, self.execution = ctx.params.compute.device, ctx.params.compute

    def samples(self, name: str) -> Dataset:
        """A sample set."""
        return self._ctx.samples(name)

    def model(self, name: str) -> Checkpoint:
        """The checkpoint of a role; where it is an adapter, its base counts as read as well."""
        if name == "proxy-warm":
            self._ctx.input("models/proxy")
        return load_checkpoint(self._ctx.input(f"models/{name}"), resolve_device(self.device))

    def score(self, name: str, **changes: object) -> ScoreTable:
        """The pool's utilities; what a later run can take over is kept where models are (`curate.keep`)."""
        ctx, compute, store = self._ctx, self.params.compute, self._ctx.root / f".ost/scores/{name}"
        if self.params.score.visual_gain:
            require_images(self.samples("pool"))
        job = Job(
            pool=ctx.input("data/pool"),
            anchors=ctx.input("data/anchors"),
            proxy=ctx.input("models/proxy-warm"),
            base=ctx.input("models/proxy"),
            store=store,
            settings=self.params.score.model_copy(update=changes),
            device=compute.device,
            threads=compute.threads,
            execution=compute,
            digest_of=Digests(ctx.root / ".ost/digests.db").of,
        )
        scored = score_file(job, runner(compute, ctx.slots), ctx.progress)
        cost, warnings = scored.cost, [*scored.warnings]
        if name in ANCHORED:
            watch, anchors = Stopwatch(), list(self.samples("anchors"))
            table = anchor_table(anchors, self.model("proxy-warm"), scored.plan, job.settings.sketches, compute)
            write_table(ctx.output(anchors_beside(name)), table)
            warnings += doubt_words(contradicted(table), anchors)
            cost += Cost(watch.seconds)
        if not self.params.curate.keep:  # so that the next run counts its whole cost
            shutil.rmtree(store)
        checks = scored.checks.to_json() if scored.checks else {}
        summary = {"toxic_share": scored.toxic_share, "quarantined": scored.quarantined, "checks": checks}
        summary["arithmetic"] = scored.settled.to_json()
        made = ScoreTable(scored.table, scored.figures, cost, warnings, summary, scored.turns)
        return self._with_visual_gain(made) if self.params.score.visual_gain else made

    def _with_visual_gain(self, made: ScoreTable) -> ScoreTable:
        """The scores with what images take off the warm proxy's losses, which is found anew in each run."""
        pool, proxy = self.samples("pool"), self.model("proxy-warm")
        made.rows, found = with_visual_gain(made.rows, pool, proxy, self.execution, self.progress)
        made.metrics |= found.figures
        made.cost += found.cost
        return made

    def judge(self) -> Chat:
        """The model `models.judge`, in this process or behind `judge.server`; without one, the base target."""
        settings, name = self.params.judge, self.params.models.judge
        if settings.server:
            return ChatServer(
                name or "default",
                settings.server,
                self._ctx.root / ".ost/judge",
                max_tokens=settings.max_tokens,
                concurrency=settings.concurrency,
                requests_per_minute=settings.requests_per_minute,
            )
        judge = self.model("judge" if "judge" in Plan(self.params).roles else "target")
        return LocalChat(judge, settings.max_tokens, self.execution)
