"""The recuration flow: what is new is scored, the subset chosen again, and a better model becomes the champion."""

import threading
import uuid
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.runtime import flow_run

from flows.curate import stage_task
from flows.session import Session
from tasks import versioning
from tasks.record.champion import ChampionChanged, challenge, promote
from tasks.record.recuration import FOLDER, Past, Recuration
from tasks.settings import load_params

PROMOTED, KEPT = "ost.promoted", "ost.kept"
"""Events that a run ends with, with its summary."""
CHAMPION_RESOURCE = {"prefect.resource.id": "ost.champion"}
"""What they are about."""

LONGEST_TELLING = 60.0
"""Seconds that Prefect's server is given to take an event."""


@flow(name="recurate")
def recurate(workspace: str = ".") -> dict:
    """Bring selection and champion up to date with the data; returns the summary. Without new data nothing happens.

    A run that was stopped once it was decided is finished first.
    """
    root = Path(workspace).resolve()
    params = load_params(root / "params.yaml")
    recuration = Recuration(root, params)
    if unchanged := recuration.unchanged():
        return unchanged
    with Session(root, flow_run=str(flow_run.id or ""), name="recurate") as session:
        finished = _finish(session, recuration)
        if finished and recuration.unchanged():
            return finished
        stages, last = recuration.stages, recuration.past()
        warmup = stages.index("warmup")  # behind it come the scores, and then what they are for
        _run(session, *stages[:warmup])
        why_warmed_up = _score(session, recuration, last)
        _run(session, *stages[warmup + 2 :])
        evaluate_champion = partial(session.run_unversioned, "evaluate-champion")
        verdict = challenge(session.tracker, params.recurate, session.record, evaluate_champion)
        recuration.write(last, why_warmed_up, verdict)
        return _finish(session, recuration)


def _run(session: Session, *stages: str, anew: bool = False) -> None:
    for stage in stages:
        stage_task(stage)(stage, session, anew)


def _score(session: Session, recuration: Recuration, last: Past | None) -> list[str]:
    """Score what is new with the proxy as it is, or everything with one warmed up anew; returns why anew, if so.

    Until the proxy is warmed up again it counts as up to date in spite of new samples, for `dvc repro` too. Drift is
    measured from the run that it was warmed up in.
    """
    fresh, limits = recuration.past(last.summary["warmed_up"]) if last else None, recuration.params.recurate
    reasons, scores = _why_anew(recuration, last, fresh), f"score-{recuration.scores}"
    if not reasons:
        versioning.commit(session.root, "warmup")
        _run(session, scores)
        if recuration.warmed_up_since(last):
            return ["it was, before this run, by one that was stopped or by a curation"]
        reasons = recuration.drift(fresh).reasons(limits.anchor_loss_rise, limits.drift)
    if reasons:
        _run(session, "warmup", anew=last is not None)  # DVC takes a proxy that was kept for up to date
        _run(session, scores)
    return reasons


def _why_anew(recuration: Recuration, last: Past | None, fresh: Past | None) -> list[str]:
    """Why the proxy must be warmed up whatever the scores say; `fresh` is the run that did it last."""
    if not last:
        return ["this is the first run"]
    changed = recuration.changed_for_proxy()
    if recuration.warmed_up_since(last) and not changed:
        # Nothing is on record of another pool than this one, so drift from it cannot be told.
        return (
            [] if recuration.is_of_this_pool() else ["another pool than this one has warmed it up since the last run"]
        )
    reasons = [f"it depends on {', '.join(sorted(changed))}, which changed"] if changed else []
    return reasons if fresh else [*reasons, f"the record of the run that did so before is gone from {FOLDER}/"]


def _finish(session: Session, recuration: Recuration) -> dict | None:
    """Do what the last run has decided and not yet done; returns its summary, None where there is nothing to do.

    Each step changes nothing where it was done already, but for the last: people may be told twice, and are never not
    told.
    """
    last = recuration.past()
    if not last or not last.pending:
        return None
    name, summary = last.name, last.summary
    steps = {
        "promote": lambda: promote(session.tracker, summary["challenge"]),
        "upload": lambda: recuration.upload(name),
        "log": lambda: session.log("recuration", summary, recuration.root / FOLDER / name),
        "tell": lambda: _tell(summary),
    }
    for step in last.pending:
        try:
            steps[step]()
        except ChampionChanged:  # before anything else has come of it
            recuration.discard(name)
            raise
        recuration.strike_off(name, step)
    return summary


def _tell(summary: dict) -> None:
    """Show the run in Prefect: an artifact to read, and an event that automations can listen to."""
    rows = [f"| {change} | {count:,} |" for change, count in summary["counts"].items()]
    notes = [f"The proxy was warmed up: {reason}." for reason in summary["why_warmed_up"]]
    text = ["| samples | |", "|---|---|", *rows, "", summary["challenge"]["why"], "", *notes]
    create_markdown_artifact("\n".join(text), key="recuration", description=summary["challenge"]["why"])
    event = PROMOTED if summary["challenge"]["promoted"] else KEPT
    again = uuid.uuid5(uuid.NAMESPACE_URL, f"{event}/{summary['name']}")  # the server keeps one event of an id
    if emit_event(event, resource=CHAMPION_RESOURCE, payload=summary, id=again):
        sent = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
        sent.start()  # Prefect sends it from a thread of its own: not before it is gone has it been told
        sent.join(LONGEST_TELLING)
