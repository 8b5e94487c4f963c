"""The curation flow: from raw samples to the subset worth training on, and proof of it."""

from pathlib import Path

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.session import Session
from tasks.runs import BASE, RUNS

UNTIL = ("ingest", "warmup", "score", "select", "sft", "evaluate", "report")
"""Where a curation can end: each stage needs those before it."""

ON_ACCELERATOR = ("base", "warmup", "score", "sft", "evaluate", "rate", "trial")
"""Stages that compute on the accelerator, where there is one."""


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def _run_stage(stage: str, session: Session) -> bool:
    return session.run(stage)


def stage_task(stage: str) -> Task[[str, Session], bool]:
    """The task that brings one stage up to date. Whether it is, DVC knows; the work is done in a worker process.

    Where the accelerator is used it has the tag `accelerator`, which a server may limit (`prefect concurrency-limit`).
    """
    kind = stage.partition("@")[0].partition("-")[0]
    return _run_stage.with_options(tags=["accelerator"] if kind in ON_ACCELERATOR else [])


@flow(name="curate", task_runner=ThreadPoolTaskRunner(max_workers=64))
def curate(workspace: str = ".", force: bool = False, until: str = "report") -> dict[str, list[str]]:
    """Curate the workspace's pool, as far as the stage `until`; returns the stages that ran and those reused."""
    with Session(Path(workspace), flow_run=str(flow_run.id or ""), force=force) as session:

        def stage(name: str, *after):
            return stage_task(name).submit(name, session, wait_for=after)

        wanted = UNTIL[: UNTIL.index(until) + 1]
        world = [stage("world")] if session.params.uses_world else []
        done = [stage("ingest", *world, stage("base@target"), stage("base@proxy"))]
        evaluations = [stage(f"evaluate@{BASE}", *done)] if "evaluate" in wanted else []
        for name in ("warmup", "score", "select"):
            done = [stage(name, *done)] if name in wanted else done
        if "sft" in wanted:
            subsets, done = done, []
            for run in RUNS:
                tuned = stage(f"sft@{run.key}", *subsets)
                done.append(stage(f"evaluate@{run.key}", tuned) if "evaluate" in wanted else tuned)
        if "report" in wanted:
            done, evaluations = [stage("report", *done, *evaluations)], []
        for last in (*done, *evaluations):
            last.wait()
        session.raise_first_error()
        return {"ran": session.ran, "reused": session.reused}
