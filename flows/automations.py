"""What the Prefect server does by itself: it ends runs whose worker has died, and tells people what came of a run."""

from datetime import timedelta
from urllib.parse import urlsplit

from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, Posture, SendNotification
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.schemas.objects import StateType

from flows.recurate import CHAMPION_RESOURCE, KEPT, PROMOTED

BLOCK = "ost-notifications"
"""Name of the block that keeps the address."""
SILENCE = timedelta(seconds=90)
"""Without a sign of life for so long a run counts as dead; prefect.yaml has its runs give one every 30 seconds."""

_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}


def automate(address: str | None) -> list[str]:
    """Make the automations on the server, or bring them up to date; returns their names.

    `address`: a Slack webhook, or an address that JSON `{"subject", "body"}` is posted to. Without one nobody is told.
    """
    wanted = [_dead_runs(), *(_told(_block(address)) if address else [])]
    for one in wanted:
        while known := _find(one.name):
            known.delete()
        one.create()
    return [one.name for one in wanted]


def _dead_runs() -> Automation:
    alive = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        after={alive},
        expect={alive} | _ENDS,
        match=_RUNS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    message = "Its worker gave no sign of life; the next run goes on where this one stood."
    return Automation(
        name="ost: runs whose worker died",
        description="Marks them as crashed, so that the next one need not wait for their place.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=message)],
    )


def _told(block: CustomWebhookNotificationBlock | SlackWebhook) -> list[Automation]:
    failed = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed")}
    counts = "{% for what, count in event.payload.counts.items() %}{{ what }}: {{ count }}\n{% endfor %}"
    why = "{{ event.payload.challenge.why }}\n" + counts
    return [
        _tells(block, "a run failed", failed, _RUNS, "{{ flow_run.name }}: {{ flow_run.state.message }}"),
        _tells(block, "a new champion", {PROMOTED}, CHAMPION_RESOURCE, why),
        _tells(block, "the champion stays", {KEPT}, CHAMPION_RESOURCE, why),
    ]


def _tells(block, subject: str, events: set[str], match: dict[str, str], body: str) -> Automation:
    return Automation(
        name=f"ost: {subject}",
        trigger=EventTrigger(expect=events, match=match, posture=Posture.Reactive, threshold=1),
        actions=[SendNotification(block_document_id=block._block_document_id, subject=f"OST: {subject}", body=body)],
    )


def _block(address: str) -> CustomWebhookNotificationBlock | SlackWebhook:
    if urlsplit(address).hostname == "hooks.slack.com":
        block = SlackWebhook(url=address)
    else:
        post = {"subject": "{{subject}}", "body": "{{body}}"}
        block = CustomWebhookNotificationBlock(
            name=BLOCK, url="{{address}}", json_data=post, secrets={"address": address}
        )
    block.save(BLOCK, overwrite=True)
    return block


def _find(name: str) -> Automation | None:
    try:
        return Automation.read(name=name)
    except ValueError:  # what it raises where there is none
        return None
