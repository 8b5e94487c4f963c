"""The comparison flow: arms × fractions × protocols × seeds, and what they say together."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.curate import stage_task
from flows.session import Session
from flows.workspaces import prepare, roles, seed_workspace
from ost.comparison import ARMS, RATINGS, Trial, plan, summarise
from ost.config import Params
from ost.errors import ConfigError
from ost.report import accuracies_png, comparison_page, costs_png
from ost.store import publish, read_json, write_json
from tasks.context import git_state
from tasks.costs import row_of
from tasks.harm import audit_trials
from tasks.tracking import Tracker

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
    trials = _checked(params)
    tracker = Tracker(folder, params)
    parent = tracker.open(git_state(root), "prefect", {"ost.flow_run": str(flow_run.id or "")}, f"compare {name}")
    errors, finished, done = [], False, {}
    try:
        for seed in params.compare.seeds:
            place = seed_workspace(folder, seed, root / "dvc.yaml", other)
            with Session(place, flow_run=str(flow_run.id or ""), name=f"seed {seed}", parent=parent) as session:
                _run_seed(session, trials)
            errors += session.errors
            done[seed] = [trial for trial in trials if trial.stage in (*session.ran, *session.reused)]
        if any(done.values()):  # what the other arms and seeds gave is published all the same
            summary = publish_summary(folder, done)
            tracker.log_summary(parent, summary, folder)
        finished = not errors
    finally:
        tracker.close(parent, finished)
    if errors:
        raise errors[0]
    return summary


def _run_seed(session: Session, trials: list[Trial]) -> None:
    """Bring one seed's trials up to date."""

    def stage(name: str, *after):
        return stage_task(name).submit(name, session, wait_for=after)

    world = [stage("world")] if session.params.uses_world else []
    bases = [stage(f"base@{role}") for role in roles(session.params)]
    done = {"": stage("ingest", *world, *bases)}
    last = [stage("evaluate@base", done[""])]
    last += [stage("evaluate@judge", done[""])] if "judge" in roles(session.params) else []
    for trial in trials:
        before = ""
        for name in (*RATINGS[ARMS[trial.subset.arm].rating].stages, f"choose@{trial.subset.key}"):
            if name not in done:
                done[name] = stage(name, done[before])
            before = name
        last.append(stage(trial.stage, done[before]))
    for future in last:
        future.wait()


def _checked(params: Params) -> list[Trial]:
    """The trials of a seed; raises ConfigError, before anything is run, where an arm cannot be had."""
    trials = plan(params.compare)
    ceilings = {trial.subset.arm for trial in trials if ARMS[trial.subset.arm].is_ceiling}
    if ceilings and not params.data.truth:
        raise ConfigError(
            f"the arm(s) {', '.join(sorted(ceilings))} need to know which samples are wrong, and data.truth is null: "
            "leave them out of compare.arms"
        )
    return trials


def publish_summary(folder: Path, done: dict[int, list[Trial]]) -> dict:
    """Write metrics, summary.json, charts and page of what is up to date, and return the summary.

    `done`: seed → its trials that are.
    """
    places = {seed: folder / f"seed-{seed}" for seed in done}
    rows = [row_of(places[seed], trial) for seed, own in done.items() for trial in own]
    audits = {seed: audit_trials(places[seed], {trial.subset for trial in own}) for seed, own in done.items()}
    bases = [place / "evaluations/base.json" for place in places.values()]
    summary = summarise(rows, [read_json(path)["accuracy"] for path in bases if path.exists()], audits)
    write_json(folder / "metrics/arms.json", rows)
    write_json(folder / "metrics/audit.json", {str(seed): found for seed, found in audits.items()})
    write_json(folder / "summary.json", summary)
    accuracies_png(summary, folder / "accuracy.png")
    costs_png(summary, folder / "cost.png")
    with publish(folder / "index.html") as part:
        part.write_text(comparison_page(folder.name, summary))
    return summary
