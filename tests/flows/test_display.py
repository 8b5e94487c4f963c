"""What a flow shows while it runs."""

import os

import pytest

from flows.cli.summary import arms_table
from flows.display import PatientConsole, say, warn


def test_a_run_outlives_whoever_reads_what_it_says():
    """As when a Prefect worker is killed, and its flow is not: the pipe that it wrote into has no other end."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        console = PatientConsole(file=stream)
        console.print("a stage is done")
        console.print("and another")
        stream.write("what others print is no error either\n")


def test_a_line_is_shown_as_it_is_however_long(capsys):
    say("[bold] a path " + "x" * 200)
    warn("[bold] a warning " + "x" * 200)
    assert capsys.readouterr().out == f"[bold] a path {'x' * 200}\n! [bold] a warning {'x' * 200}\n"


@pytest.mark.parametrize(
    ("protocols", "arms"), [("BA", ["base", "full", "random"]), ("B", ["random"]), ("A", ["base"])]
)
def test_the_table_of_arms_takes_any_of_them_and_shows_the_base_once(protocols, arms):
    """Full-SFT, against which the others are shown, need not be among them."""
    figures = {"accuracy": 0.5, "samples": 10, "steps": 5, "select_seconds": 1.0, "train_seconds": 1.0}
    rows = [figures | {"arm": arm, "label": arm, "protocol": protocol} for protocol in protocols for arm in arms]
    table = arms_table(rows)
    assert list(table.columns[0].cells).count("base") == ("base" in arms)
    assert table.row_count == len(rows) - ("base" in arms) * (len(protocols) - 1)
