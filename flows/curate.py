"""The curation flow: from raw samples to the subset worth training on, and proof of it."""

from collections.abc import Sequence
from pathlib import Path

from prefect import Task, allow_failure, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.session import Session
from tasks.pipeline import ON_ACCELERATOR, Stage, stages_of, up_to
from tasks.plan import Plan

ACCELERATOR = "accelerator"
"""Tag of the tasks that use one."""


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def _run_stage(stage: str, session: Session, anew: bool = False) -> bool:
    return session.run(stage, anew)


def stage_task(stage: str) -> Task[[str, Session], bool]:
    """The task that brings one stage up to date. Whether it is, DVC knows; the work is done in a worker process.

    Where the accelerator is used it has a tag, which a server may limit (`ost automate --accelerators`).
    """
    return _run_stage.with_options(tags=[ACCELERATOR] if stage.partition("-")[0] in ON_ACCELERATOR else [])


def run_stages(session: Session, stages: Sequence[Stage]) -> None:
    """Bring stages up to date, each once what it reads is; a training also once the subsets before its own are."""
    session.expect(stages)
    makers = {path: stage.name for stage in stages for path in stage.made}
    submitted: dict[str, PrefectFuture] = {}
    for stage in stages:
        before = [submitted[name] for name in dict.fromkeys(makers[path] for path in stage.reads if path in makers)]
        if stage.kind in ("sft", "trial"):  # which may come to the same as one on an earlier subset
            chosen = [one for name, one in submitted.items() if name.startswith("select-")]
            own = next(chosen.index(one) for one in before if one in chosen)
            before += map(allow_failure, chosen[:own])
        submitted[stage.name] = stage_task(stage.name).submit(stage.name, session, wait_for=before)
    for future in submitted.values():
        future.wait()


@flow(name="curate", task_runner=ThreadPoolTaskRunner(max_workers=64))
def curate(workspace: str = ".", force: bool = False, until: str = "report") -> dict[str, list[str]]:
    """Curate the workspace's pool, as far as the stage `until`; returns the stages that ran and those reused."""
    with Session(Path(workspace), flow_run=str(flow_run.id or ""), force=force) as session:
        run_stages(session, up_to(stages_of(session.root, Plan(session.params)), until))
        session.raise_first_error()
        return {"ran": session.ran, "reused": session.reused}
