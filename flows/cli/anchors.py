"""`ost anchors`: what to ask, where to answer, and the answers taken in."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Workspace, named

if TYPE_CHECKING:  # a command's help is shown without loading any of it
    from ost.data import Sample

app = typer.Typer(
    name="anchors",
    help="More anchors where they are wanted most: questions of the pool to answer, and the answers taken in.",
    epilog="First suggest, then answer (on a page, in an editor, or by a judge), then add, then `ost curate`.",
    no_args_is_help=True,
)
File = Annotated[Path, typer.Argument(help="The sheet of questions that `ost anchors suggest` wrote.")]
SHEET = Path("anchors-to-answer.jsonl")
ADDED = "anchors-added.parquet"
"""Where added anchors go, beside params.yaml."""


@app.command()
def suggest(
    count: Annotated[int, typer.Option(min=1, help="Questions to ask.")] = 50,
    workspace: Workspace = Path(),
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=named, dir_okay=False, help=f"Sheet to write; else {SHEET} in the workspace."
        ),
    ] = None,
) -> None:
    """Write the pool's questions that the anchors cover worst, as many of each task as the pool has.

    A sheet is JSONL, a question a line, its images in a folder beside it. It never shows what the pool answers: what
    you write into `answer` should be your own, or a strong judge's. The scores must be up to date, and hold sketches
    (score.sketch).
    """
    from flows.display import say
    from ost.anchors import write_sheet

    place = out or workspace / SHEET
    questions = list(itertools.islice(_questions(workspace), count))
    write_sheet(place, questions)
    say(f"{len(questions):,} questions → {place}")
    say(f"next: ost anchors answer {place}")


@app.command()
def answer(file: File) -> None:
    """Answer a sheet in your browser: question, images, a field; each answer is saved before the next question comes.

    The page is served to this machine alone, under an address that nobody can guess, until you press Done there, or
    Ctrl-C here. Called again, it goes on at the first question without an answer.
    """
    from flows.display import say
    from ost.anchors.answering import Sheet
    from ost.anchors.page import Page

    sheet = Sheet(file)
    with Page(sheet) as page:
        say(f"{sheet.answered} of {len(sheet)} answered; open {page.address}")
        say("Ctrl-C ends; every answer is saved as it is given")
        page.serve()
    say(f"{sheet.answered} of {len(sheet)} answered → {file}")
    if sheet.answered:
        say(f"next: ost anchors add {file}")


@app.command()
def add(
    file: Annotated[
        str, typer.Argument(help="The answered sheet, or any file or folder of whole samples that you trust.")
    ],
    workspace: Workspace = Path(),
) -> None:
    """Take answers in as anchors of a workspace; the next `ost curate` scores the pool by them.

    They go into anchors-added.parquet beside params.yaml, which data.added_anchors then names; your own anchors stay as
    they are. Either all answers of the file are taken or, where one can't be, none. Questions without an answer are
    left out; answers that are there already are not added twice. The sample that a question came from leaves the pool.
    """
    from flows.display import say
    from flows.lock import claim
    from flows.parameters import set_params
    from ost.anchors import add_anchors, read_answers
    from ost.data import Dataset
    from ost.errors import ConfigError
    from tasks.settings import load_params
    from tasks.storage import is_remote

    params = workspace / "params.yaml"
    with claim(workspace / ".ost/lock"):
        data = load_params(params).data
        table = data.added_anchors or ADDED
        if is_remote(table) or Path(table).suffix != ".parquet":
            raise ConfigError(
                f"data.added_anchors is {table}, and what is added goes into a local Parquet table: add to that source "
                "by hand, or set data.added_anchors to null"
            )
        found = read_answers(file, data.columns)
        known = Dataset(workspace / "data/anchors") if (workspace / "data/anchors").exists() else ()
        added = add_anchors(found.samples, workspace / table, known)
        if added.total and data.added_anchors is None:  # after the table is there: a kill between leaves nothing amiss
            set_params(params, [f"data.added_anchors={table}"])
    say(f"{added.new:,} added, {added.known:,} known before, {found.open:,} without an answer left out")
    if added.total:
        say(f"{added.total:,} anchors in {workspace / table} (data.added_anchors)")
        say("next: ost curate --until select scores the pool by them, ost curate proves it on the target")


def _questions(workspace: Path) -> Iterator["Sample"]:
    """What is worth asking in a workspace; raises WorkspaceError where its scores do not know its anchors."""
    from ost.anchors import suggestions
    from ost.data import Dataset
    from ost.errors import WorkspaceError
    from ost.scoring import read_scores
    from ost.store import digest, read_json, read_table
    from tasks.pipeline import ANCHORED, anchors_beside, manifest_path
    from tasks.settings import load_params

    scores, beside = (workspace / path for path in (f"scores/{ANCHORED[0]}.parquet", anchors_beside(ANCHORED[0])))
    if not scores.is_file() or not beside.is_file():
        raise WorkspaceError(
            f"no scores by {ANCHORED[0]} with a table of their anchors in {workspace}: run ost curate --until score, "
            f"with a subset such as {ANCHORED[0]}-20 in curate.subsets"
        )
    added = load_params(workspace / "params.yaml").data.added_anchors
    table, known = read_table(beside), Dataset(workspace / "data/anchors")
    read = read_json(workspace / manifest_path("ingest"))["inputs"].get(added)
    if set(known.ids()) != {*table["id"].to_pylist()} or (added and read != digest(workspace / added)):
        raise WorkspaceError("the anchors have changed since the pool was scored: run ost curate --until score first")
    return suggestions(read_scores(scores), table, Dataset(workspace / "data/pool"), known)
