"""The recuration flow: what is new is scored, the subset chosen again, and a better model becomes the champion."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.curate import stage_task
from flows.session import Session
from tasks import versioning
from tasks.record.champion import challenge
from tasks.record.recuration import FOLDER, Past, Recuration
from tasks.settings import load_params

PROMOTED, KEPT = "ost.promoted", "ost.kept"
"""Events that a run ends with, with its summary."""
CHAMPION_RESOURCE = {"prefect.resource.id": "ost.champion"}
"""What they are about."""


@flow(name="recurate")
def recurate(workspace: str = ".") -> dict:
    """Bring selection and champion up to date with the data; returns the summary. Without new data nothing happens."""
    root = Path(workspace).resolve()
    params = load_params(root / "params.yaml")
    recuration = Recuration(root, params)
    if unchanged := recuration.unchanged():
        return unchanged
    stages, last = recuration.stages, recuration.past()
    warmup = stages.index("warmup")  # behind it come the scores, and then what they are for
    with Session(root, flow_run=str(flow_run.id or ""), name="recurate") as session:
        _run(session, *stages[:warmup])
        why_warmed_up = _score(session, recuration, last)
        _run(session, *stages[warmup + 2 :])
        verdict = challenge(session.tracker, params.recurate, lambda: session.run_unversioned("evaluate-champion"))
        summary = recuration.publish(last, why_warmed_up, verdict)
        session.tracker.log_recuration(session.parent, summary, root / FOLDER / summary["name"])
    _tell(summary)
    return summary


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
    reasons = [f"it depends on {', '.join(sorted(changed))}, which changed"] if changed else []
    return reasons if fresh else [*reasons, f"the record of the run that did so before is gone from {FOLDER}/"]


def _tell(summary: dict) -> None:
    """Show the run in Prefect: an artifact to read, and an event that automations can listen to."""
    rows = [f"| {change} | {count:,} |" for change, count in summary["counts"].items()]
    notes = [f"The proxy was warmed up: {reason}." for reason in summary["why_warmed_up"]]
    text = ["| samples | |", "|---|---|", *rows, "", summary["challenge"]["why"], "", *notes]
    create_markdown_artifact("\n".join(text), key="recuration", description=summary["challenge"]["why"])
    emit_event(PROMOTED if summary["challenge"]["promoted"] else KEPT, resource=CHAMPION_RESOURCE, payload=summary)
