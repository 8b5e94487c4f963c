"""The `ost` command: the library's calls, and the flow, from a shell."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import cli_files
from ost.config import load_params
from ost.errors import OSTError

app = typer.Typer(
    name="ost",
    help="Choose the training samples that are worth training on, and name those that do harm.",
    epilog="Start with `ost curate`. Every parameter stands in params.yaml, explained in ost/config.py.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (cli_files.check, cli_files.score, cli_files.select, cli_files.export):
    app.command()(command)

QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""What the flow's libraries may say while the command shows its own progress, and how long Prefect's server may take to
start: 20 seconds, its default, is too short for a first start on a busy machine. The environment wins."""

Workspace = Annotated[Path, typer.Option("--workspace", "-w", help="Folder that holds params.yaml and dvc.yaml.")]
Until = Literal["ingest", "warmup", "score", "select", "sft", "evaluate", "report"]


@app.command()
def curate(
    workspace: Workspace = Path(),
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change params.yaml first: NAME=VALUE, such as select.fraction=0.1; repeatable."),
    ] = None,
    until: Annotated[
        Until, typer.Option(help="Last stage to run: `select` gives the subset, without any training of the target.")
    ] = "report",
    force: Annotated[bool, typer.Option(help="Run every stage again, up to date or not.")] = False,
) -> None:
    """Run the whole curation: ingest, warm up, score, select, fine-tune, evaluate, report.

    Stages that are up to date are reused, so a run that was stopped goes on where it stood. With your own data, name it
    in params.yaml, or here: --set data.pool=pool.jsonl --set data.anchors=anchors.jsonl --set data.benchmark=test.jsonl
    --set data.truth=null --set models.target=Qwen/Qwen3-VL-2B-Instruct --set models.proxy=...
    """
    _quiet()
    from flows.parameters import set_params

    if assignments:
        set_params(workspace / "params.yaml", assignments)
    params = load_params(workspace / "params.yaml")
    from flows.curate import curate as run  # slow to load: what is wrong with the parameters is told before
    from flows.summary import show_curation, show_stage
    from tasks.tracking import tracking_uri

    run(str(workspace), force, until)
    if until == "report":
        show_curation(workspace.resolve(), tracking_uri(workspace, params.tracking.uri))
    else:
        show_stage(workspace.resolve(), until)


@app.command()
def recurate(workspace: Workspace = Path()) -> None:
    """Bring subset and champion up to date with data that keeps arriving; without new data, nothing is done.

    New and changed samples alone are scored, with the proxy as it is unless they or the anchors have moved too far from
    what it knows (recurate: in params.yaml). The target trained on the new subset becomes the champion in MLflow's
    registry only where the benchmark proves a gain.
    """
    _quiet()
    from flows.summary import show_recuration
    from tasks.recuration import Recuration

    root = workspace.resolve()
    summary = Recuration(root, load_params(root / "params.yaml")).unchanged()
    if summary is None:  # only now is Prefect worth starting
        from flows.recurate import recurate as run

        summary = run(str(root))
    show_recuration(summary)


@app.command()
def rollback(workspace: Workspace = Path()) -> None:
    """Give the champion's place back to the model that it took it from."""
    from flows.display import console
    from tasks.promotion import rollback as run
    from tasks.tracking import Tracker

    params = load_params(workspace / "params.yaml")
    old, new = run(Tracker(workspace.resolve(), params))
    console.print(f"version {new} of {params.tracking.model_name} is the champion again, {old} no longer")


@app.command()
def automate() -> None:
    """Let the Prefect server end runs whose worker died, and tell of what failed and of new champions.

    For the server that PREFECT_API_URL names. Who is told: OST_NOTIFY_URL, a Slack webhook or any address that takes
    JSON by POST; without it nobody is.
    """
    from flows.automations import automate as run
    from flows.display import console

    for name in run(os.environ.get("OST_NOTIFY_URL")):
        console.print(name, highlight=False)


@app.command()
def compare(
    workspace: Workspace = Path(),
    name: Annotated[str, typer.Option(help="Folder under comparisons/ that holds it.")] = "default",
    arms: Annotated[str | None, typer.Option(help="Arms to train, such as full,random,ost; `all` for all.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Shares of the pool that are kept, such as 0.2,0.5.")] = None,
    protocols: Annotated[
        str | None, typer.Option(help="B: as many steps as Full-SFT; A: as many epochs; or B,A.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2; intervals need two or more.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Change the comparison's own params.yaml: NAME=VALUE; repeatable.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Another comparison, to start from its parameters and what it has computed.")
    ] = None,
) -> None:
    """Compare the arms: train the target on what each of them chooses, for several seeds, and count the whole cost.

    The comparison keeps its own parameters and results in comparisons/NAME; run it again to go on where it stood, or
    with more arms, fractions or seeds to add to it. It holds metrics/arms.json, summary.json, charts and index.html.
    """
    _quiet()
    from flows.compare import FOLDER
    from flows.compare import compare as run
    from flows.summary import show_comparison
    from ost.comparison import ARMS

    asked = {"arms": ",".join(ARMS) if arms == "all" else arms, "fractions": fractions}
    asked |= {"protocols": protocols, "seeds": seeds}
    lists = [f"compare.{key}=[{value}]" for key, value in asked.items() if value]
    run(str(workspace), name, [*lists, *(assignments or [])], like)
    show_comparison(workspace.resolve() / FOLDER / name)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Which study: `ost study list` names them.")],
    workspace: Workspace = Path(),
    like: Annotated[str | None, typer.Option(help="A comparison to start from what it has computed.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Change all its comparisons: NAME=VALUE; repeatable.")
    ] = None,
) -> None:
    """Vary one thing and compare the arms at each of its values; the result goes to docs/studies, with a chart."""
    _quiet()
    from flows.display import console
    from flows.study import STUDIES
    from flows.study import study as run

    if name == "list":
        for known, plan in STUDIES.items():
            console.print(f"{known:<16} {plan.question}", highlight=False)
        return
    run(name, workspace, like, assignments)
    console.print(f"→ {workspace.resolve() / 'docs/studies' / name}.json, .png", highlight=False, soft_wrap=True)


@app.command()
def report(workspace: Workspace = Path()) -> None:
    """Bring the report of a curation up to date, and show the arms."""
    from flows.session import Session
    from flows.summary import show_curation
    from tasks.tracking import tracking_uri

    with Session(workspace) as session:
        session.run("report")
        show_curation(session.root, tracking_uri(session.root, session.params.tracking.uri))


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A registered model (ost-target, ost-target/3) or a sample's id.")],
    workspace: Workspace = Path(),
) -> None:
    """Walk back from a model to data and commit, or forward from a sample to the models trained on it."""
    from flows.standalone import show_lineage

    show_lineage(name, workspace)


def _quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def main() -> None:
    """Run the command; an error that a user can act on is printed without a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C, and so ends the server it started
    try:
        app()
    except OSTError as error:
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print("[red]error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(1)
