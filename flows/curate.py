"""The curation flow: from raw samples to the subset worth training on, and proof of it."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.session import Session
from tasks.runs import BASE, RUNS


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(stage: str, session: Session) -> bool:
    """Bring one stage up to date. Whether it is, DVC knows; the work is done in a worker process."""
    return session.run(stage)


@flow(name="curate", task_runner=ThreadPoolTaskRunner(max_workers=64))
def curate(workspace: str = ".", force: bool = False) -> dict[str, list[str]]:
    """Curate the workspace's pool; returns the stages that ran and those that were reused."""
    with Session(Path(workspace), flow_run=str(flow_run.id or ""), force=force) as session:

        def stage(name: str, *after):
            return run_stage.submit(name, session, wait_for=after)

        world = [stage("world")] if session.params.uses_world else []
        bases = [stage("base@target"), stage("base@proxy")]
        data = stage("ingest", *world, *bases)
        scores = stage("score", stage("warmup", data))
        evaluations = [stage(f"evaluate@{BASE}", data)]
        subsets = stage("select", scores)
        for run in RUNS:
            tuned = stage(f"sft@{run.key}", subsets)
            evaluations.append(stage(f"evaluate@{run.key}", tuned))
        stage("report", *evaluations).wait()
        session.raise_first_error()
        return {"ran": session.ran, "reused": session.reused}
