"""The `ost` command: the library's calls, and the flow, from a shell."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli import anchors, files
from flows.cli.ending import end_soon_after_a_signal
from flows.cli.options import Workspace
from flows.descendants import end_descendants_with_this_process
from ost.errors import ConfigError, OSTError
from ost.worlds.settings import WorldName
from tasks.quiet import quiet
from tasks.settings import load_params

app = typer.Typer(
    name="ost",
    help="Choose the training samples that are worth training on, and name those that do harm.",
    epilog="Start with `ost curate` for the built-in demo, with `ost init` for data of your own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (files.check, files.score, files.select, files.export):
    app.command()(command)
app.add_typer(anchors.app)

Until = Literal["ingest", "warmup", "score", "select", "sft", "evaluate", "report"]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the workspace; made where it is not there.")] = Path(),
    pool: Annotated[str | None, typer.Option(help="File, folder, s3:// address or hub name of the pool.")] = None,
    anchors: Annotated[str | None, typer.Option(help="About a hundred samples that you trust.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="What the fine-tuned target is tested on.")] = None,
    target: Annotated[str | None, typer.Option(help="The model to fine-tune: a folder or a hub name.")] = None,
    proxy: Annotated[str | None, typer.Option(help="A smaller model of its family, which scores.")] = None,
    world: Annotated[
        WorldName | None, typer.Option(help="In place of your own data: a built-in world, with tiny models of its own.")
    ] = None,
) -> None:
    """Make a workspace for your own data: a page of parameters, from what lies in the folder and what you name."""
    from flows.cli.init import init_workspace, init_world

    given = {"pool": pool, "anchors": anchors, "benchmark": benchmark, "target": target, "proxy": proxy}
    if world and (named := [f"--{name}" for name, value in given.items() if value]):
        raise ConfigError(f"--world brings its own data and models: leave {', '.join(named)} out, or --world")
    if world:
        init_world(folder, world)
    else:
        init_workspace(folder, given)


@app.command()
def plan(workspace: Workspace = Path()) -> None:
    """Make dvc.yaml from params.yaml, and show what is planned, and which of it is up to date.

    For what is still to run it tries the models on some of the pool's samples, which takes from seconds to a few
    minutes, and tells what scoring, training and evaluation will take: samples a second, hours, memory beside what the
    device has, disk beside what is free, and what to set where it does not fit. Before the pool is there it tells what
    the models' configurations say: run `ost curate --until ingest` first to know more. `ost curate` shows the same
    before long work, and refuses what cannot fit. What it says to set are keys of compute: in params.yaml, such as
    compute.batch_tokens.
    """
    from flows.cli.summary import show_plan
    from tasks.pipeline import write_pipeline

    quiet()
    write_pipeline(workspace)
    show_plan(workspace)


@app.command()
def curate(
    workspace: Workspace = Path(),
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change params.yaml first: NAME=VALUE, such as select.strategy=top; repeatable."),
    ] = None,
    until: Annotated[
        Until, typer.Option(help="Last stage to run: `select` gives the subset, without any training of the target.")
    ] = "report",
    force: Annotated[bool, typer.Option(help="Run every stage again, up to date or not.")] = False,
) -> None:
    """Run the whole curation: ingest, warm up, score, select, fine-tune, evaluate, report.

    Stages that are up to date are reused, so a run that was stopped goes on where it stood. For your own data, make a
    workspace first: ost init. What is chosen and trained: curate.subsets in params.yaml, such as lookahead-20.
    """
    quiet()
    end_descendants_with_this_process()
    if assignments:
        _set(workspace, assignments)
    params = load_params(workspace / "params.yaml")
    from flows.cli.summary import show_curation, show_stage
    from flows.curate import curate as run  # slow to load: what is wrong with the parameters is told before

    run(str(workspace), force, until)
    if until == "report":
        show_curation(workspace, params)
    else:
        show_stage(workspace, params, until)


@app.command()
def recurate(workspace: Workspace = Path()) -> None:
    """Bring subset and champion up to date with data that keeps arriving; without new data, nothing is done.

    New and changed samples alone are scored, with the proxy as it is unless they or the anchors have moved too far from
    what it knows (recurate: in params.yaml). The target trained on the new subset becomes the champion in MLflow's
    registry only where the benchmark proves a gain.
    """
    quiet()
    end_descendants_with_this_process()
    from flows.cli.summary import show_recuration
    from tasks.record.recuration import Recuration

    summary = Recuration(workspace, load_params(workspace / "params.yaml")).unchanged()
    if summary is None:  # only now is Prefect worth starting
        from flows.recurate import recurate as run

        summary = run(str(workspace))
    show_recuration(summary)


@app.command()
def rollback(workspace: Workspace = Path()) -> None:
    """Give the champion's place back to the model that it took it from."""
    from flows.display import say
    from tasks.record.champion import rollback as run
    from tasks.tracking import Tracker

    params = load_params(workspace / "params.yaml")
    old, new = run(Tracker(workspace, params))
    say(f"version {new} of {params.tracking.model_name} is the champion again, {old} no longer")


@app.command()
def automate(
    accelerators: Annotated[
        int | None,
        typer.Option(min=1, help="Stages on accelerators at a time, over all workers; else the limit stays."),
    ] = None,
) -> None:
    """Let the Prefect server end runs whose worker died, and tell of what failed and of new champions.

    For the server that PREFECT_API_URL names. Who is told: OST_NOTIFY_URL, a Slack webhook or any address that takes
    JSON by POST; without it nobody is.
    """
    from flows.automations import automate as run
    from flows.display import say

    for name in run(os.environ.get("OST_NOTIFY_URL"), accelerators):
        say(name)


@app.command()
def compare(
    workspace: Workspace = Path(),
    name: Annotated[str, typer.Option(help="Folder under comparisons/ that holds it.")] = "default",
    arms: Annotated[
        str | None, typer.Option(help="Arms to train, such as full,random,lookahead; `all` for all.")
    ] = None,
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
    quiet()
    end_descendants_with_this_process()
    from flows.cli.summary import show_comparison
    from flows.compare import FOLDER
    from flows.compare import compare as run
    from ost.arms import arms as known

    arms = ",".join(known()) if arms == "all" else arms
    asked = {"arms": arms, "fractions": fractions, "protocols": protocols, "seeds": seeds}
    lists = [f"compare.{key}=[{value}]" for key, value in asked.items() if value]
    run(str(workspace), name, [*lists, *(assignments or [])], like)
    show_comparison(workspace / FOLDER / name)


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
    quiet()
    end_descendants_with_this_process()
    from flows.display import say
    from flows.study import STUDIES
    from flows.study import study as run

    if name == "list":
        for known, plan in STUDIES.items():
            say(f"{known:<16} {plan.question}")
        return
    run(name, workspace, like, assignments)
    say(f"→ {workspace / 'docs/studies' / name}.json, .png")


@app.command()
def report(workspace: Workspace = Path()) -> None:
    """Bring the report of a curation up to date, and show the arms."""
    from flows.cli.summary import show_curation
    from flows.session import Session

    with Session(workspace) as session:
        session.run("report")
        show_curation(workspace, session.params)


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A registered model (ost-target, ost-target/3) or a sample's id.")],
    workspace: Workspace = Path(),
) -> None:
    """Walk back from a model to data and commit, or forward from a sample to the models trained on it."""
    from flows.cli.summary import show_lineage

    show_lineage(name, workspace)


def _set(workspace: Path, assignments: list[str]) -> None:
    """Change a workspace's params.yaml; raises WorkspaceError while a run is at work there, which would read it."""
    from flows.lock import claim
    from flows.parameters import changed_params, set_params

    file = workspace / "params.yaml"
    changed_params(file, assignments)  # what cannot be had leaves nothing behind, not even a lock
    with claim(workspace / ".ost/lock"):
        set_params(file, assignments)


def main() -> None:
    """Run the command; an error that a user can act on is printed without a traceback."""
    end_soon_after_a_signal()
    try:
        app()
    except (OSTError, PermissionError) as error:
        from rich.console import Console
        from rich.markup import escape

        told = f"no permission for {error.filename}" if isinstance(error, PermissionError) else str(error)
        Console(stderr=True).print("[red]error:[/]", escape(told), highlight=False, soft_wrap=True)
        sys.exit(1)
