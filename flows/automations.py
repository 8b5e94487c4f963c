"""What the Prefect server does by itself: it ends runs whose worker has died, and tells people what came of a run."""

from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit

from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, Posture, SendNotification
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from flows.curate import ACCELERATOR
from flows.recurate import CHAMPION_RESOURCE, KEPT, PROMOTED

BLOCK = "ost-notifications"
"""Name of the block that keeps the address."""
SILENCE = timedelta(seconds=90)
"""How long a run counts as alive after its last sign of life; prefect.yaml has runs give one every 30 seconds."""

_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}


def automate(address: str | None, accelerators: int | None = None) -> list[str]:
    """Make the automations on the server, or bring them up to date; returns their names.

    `address`: a Slack webhook, or an address that JSON `{"subject", "body"}` is posted to. Without one nobody is told.
    `accelerators`: how many stages that use one may run at a time, whatever machine their workers are on; None leaves
    the server's limit as it is.
    """
    wanted = [_dead_runs(), *(_notifications(_block(address)) if address else [])]
    for one in wanted:
        with suppress(ValueError):  # once there is none of this name
            while True:
                Automation.read(name=one.name).delete()
        one.create()
    made = [one.name for one in wanted]
    if accelerators is not None:
        with get_client(sync_client=True) as client:
            client.create_concurrency_limit(tag=ACCELERATOR, concurrency_limit=accelerators)
        made.append(f"ost: at most {accelerators} at a time with the tag {ACCELERATOR}")
    return made


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


def _notifications(block: CustomWebhookNotificationBlock | SlackWebhook) -> list[Automation]:
    failed = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed")}
    counts = "{% for what, count in event.payload.counts.items() %}{{ what }}: {{ count }}\n{% endfor %}"
    why = "{{ event.payload.challenge.why }}\n" + counts

    def notification(subject: str, events: set[str], match: dict[str, str], body: str) -> Automation:
        send = SendNotification(block_document_id=block._block_document_id, subject=f"OST: {subject}", body=body)
        trigger = EventTrigger(expect=events, match=match, posture=Posture.Reactive, threshold=1)
        return Automation(name=f"ost: {subject}", trigger=trigger, actions=[send])

    return [
        notification("a run failed", failed, _RUNS, "{{ flow_run.name }}: {{ flow_run.state.message }}"),
        notification("a new champion", {PROMOTED}, CHAMPION_RESOURCE, why),
        notification("the champion stays", {KEPT}, CHAMPION_RESOURCE, why),
    ]


def _block(address: str) -> CustomWebhookNotificationBlock | SlackWebhook:
    post = {"url": "{{address}}", "json_data": {"subject": "{{subject}}", "body": "{{body}}"}}
    if urlsplit(address).hostname == "hooks.slack.com":
        block = SlackWebhook(url=address)
    else:
        block = CustomWebhookNotificationBlock(name=BLOCK, secrets={"address": address}, **post)
    block.save(BLOCK, overwrite=True)
    return block
