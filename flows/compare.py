"""The comparison flow: arms × fractions × protocols × seeds, and what they say together."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.curate import run_stages
from flows.display import warn
from flows.session import Session
from flows.workspaces import planned, prepare, seed_workspace
from ost.arms.plan import Training
from ost.comparison import summarise
from ost.report import accuracies_png, comparison_page, costs_png
from ost.store import publish, write_json
from tasks.pipeline import stages_of
from tasks.plan import Plan
from tasks.record.outbox import Outbox
from tasks.settings import load_params
from tasks.stages.context import git_state
from tasks.stages.harm import audit_subsets
from tasks.stages.rows import rows_of
from tasks.tracking import Tracker, opening

FOLDER = "comparisons"
"""Where comparisons lie in a workspace, each under its name."""


@flow(name="compare", task_runner=ThreadPoolTaskRunner(max_workers=64))
def compare(
    workspace: str = ".", name: str = "default", assignments: list[str] | None = None, like: str | None = None
) -> dict:
    """Train the target on every arm's choice for every seed; returns the summary.

    What is up to date is reused, so a comparison that was stopped, or asked for more, goes on where it stood.
    """
    root = Path(workspace).resolve()
    folder, other = root / FOLDER / name, root / FOLDER / like if like else None
    params = prepare(folder, root, assignments or [], other)
    plan = Plan(planned(params)).check()
    outbox = Outbox(folder, Tracker(folder, params), warn)
    parent = opening(git_state(root), "prefect", {"ost.flow_run": str(flow_run.id or "")}, f"compare {name}")
    outbox.open(parent)
    errors, finished, done = [], False, {}
    try:
        for seed in params.compare.seeds:
            place = seed_workspace(folder, seed, other)
            with Session(place, flow_run=str(flow_run.id or ""), name=f"seed {seed}", parent=parent) as session:
                run_stages(session, stages_of(place, Plan(session.params)))
            errors += session.errors
            ready = {*session.ran, *session.reused}
            done[seed] = [training for training in plan.trainings if f"trial-{training.key}" in ready]
        if any(done.values()):  # what the other arms and seeds gave is published all the same
            summary = publish_summary(folder, done)
            outbox.log("comparison", parent, summary, folder)
        finished = not errors
    finally:
        outbox.close(parent, [], finished)
        outbox.tell_what_is_left()
    if errors:
        raise errors[0]
    return summary


def publish_summary(folder: Path, done: dict[int, list[Training]]) -> dict:
    """Write metrics, summary.json, charts and page of what is up to date, and return the summary.

    `done`: seed → its trainings that are.
    """
    rows, audits = [], {}
    for seed, own in done.items():
        place = folder / f"seed-{seed}"
        rows += rows_of(place, Plan(load_params(place / "params.yaml")), own)
        audits[seed] = audit_subsets(place, {training.subset for training in own})
    summary = summarise(rows, audits)
    write_json(folder / "metrics/arms.json", rows)
    write_json(folder / "metrics/audit.json", {str(seed): found for seed, found in audits.items()})
    write_json(folder / "summary.json", summary)
    accuracies_png(summary, folder / "accuracy.png")
    costs_png(summary, folder / "cost.png")
    with publish(folder / "index.html") as part:
        part.write_text(comparison_page(folder.name, summary))
    return summary
