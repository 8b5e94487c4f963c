"""What a flow shows while it runs."""

import os
from types import SimpleNamespace

import pytest
from specimens import drawn

from flows import display
from flows.cli import summary
from flows.cli.summary import arms_table, show_lineage, states_of
from flows.display import Display, PatientConsole, say, warn
from ost.data import write_samples
from ost.errors import ConfigError, WorkspaceError
from tasks.pipeline import Stage
from tasks.record.lineage import Selected


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


def test_without_a_terminal_a_line_tells_that_a_stage_begins_and_now_and_then_how_far_it_is(monkeypatch, capsys):
    seconds = iter([100, 110, 129, 130, 159, 161, 162])
    monkeypatch.setattr(display, "monotonic", lambda: next(seconds))
    with Display() as shown:
        for done in (0, 512, 1000, 1024, 2000, 8000):
            shown.advance("score-lookahead", done, 8000, "[scoring]")
        shown.advance("sft-own", 3, 0)
        manifest = {"seconds": 61.0, "warnings": [], "metrics": {}}
        shown.finish("score-lookahead", manifest)
        monkeypatch.setattr(display, "monotonic", lambda: 200)
        shown.advance("score-lookahead", 8000, 8000, "[scoring]")  # told late, by another process
    assert capsys.readouterr().out.splitlines() == [
        "  score-lookahead          0/8,000 [scoring]",
        "  score-lookahead          1,024/8,000 [scoring]",
        "  score-lookahead          8,000/8,000 [scoring]",
        "  sft-own                  3",
        "✓ score-lookahead            61.0 s  ",
    ]


def test_stages_below_one_that_is_to_run_are_not_called_up_to_date():
    made = {"base": (), "ingest": ("base",), "warmup": ("ingest",), "score": ("warmup",), "other": ()}
    stages = [Stage(name, reads, writes=(name,)) for name, reads in made.items()]
    assert states_of(stages, {"base", "warmup"}) == {
        "base": "to run", "ingest": "follows", "warmup": "to run", "score": "follows", "other": "up to date",
    }  # fmt: skip
    assert set(states_of(stages, set()).values()) == {"up to date"}


def test_the_plan_says_what_follows_and_refuses_a_task_that_the_benchmark_does_not_have(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text("curate: {subsets: [lookahead-20], protocols: [B]}\n")
    monkeypatch.setattr(summary.versioning, "stale_stages", lambda _: {"base-proxy"})
    monkeypatch.setattr(summary, "on_accelerator", lambda *_: [])
    monkeypatch.setattr(display.console, "width", 200)
    summary.show_plan(tmp_path)
    told = capsys.readouterr().out
    states = {line.split()[0]: line.rstrip().rpartition("  ")[2] for line in told.splitlines() if line.strip()}
    assert (states["base-proxy"], states["base-target"]) == ("to run", "up to date")
    assert {states[name] for name in ("ingest", "warmup", "score-lookahead", "evaluate-base")} == {"follows"}
    assert "follows: runs where those before it leave something else" in told

    write_samples(tmp_path / "data/benchmark", drawn("benchmark", 20))
    (tmp_path / "params.yaml").write_text("evaluate: {metric: {docvqa: anls}}\n")
    summary.show_plan(tmp_path)  # the benchmark may be another once it has been read in anew
    monkeypatch.setattr(summary.versioning, "stale_stages", lambda _: {"warmup"})
    with pytest.raises(ConfigError, match=r"evaluate\.metric names the task 'docvqa'"):
        summary.show_plan(tmp_path)


@pytest.fixture
def own_ids(tmp_path, monkeypatch) -> dict[str, list[str]]:
    """Own id → samples, in a workspace whose record knows of each sample one selection."""
    named = {"own-1": ["a"], "own-9": [f"sample-{number}" for number in range(9)], "own-0": ["unknown"]}
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    run = SimpleNamespace(info=SimpleNamespace(run_id="0123456789"))
    monkeypatch.setattr(summary, "Tracker", lambda *_: SimpleNamespace(model_name="ost-target"))
    monkeypatch.setattr(summary, "find_version", lambda *_: None)
    known = {*named["own-1"], *named["own-9"]}
    monkeypatch.setattr(summary, "uses", lambda _, name: [Selected("full", run, 1, "kept", [])] * (name in known))
    monkeypatch.setattr(summary, "samples_named", lambda _, own: named.get(own, []))
    return named


def test_a_sample_is_told_of_by_the_users_own_id(own_ids, tmp_path, capsys):
    show_lineage("own-1", tmp_path)
    told = capsys.readouterr().out
    assert "your own id own-1 is that of 1 sample(s) of data/pool: a\n" in told and "sample a" in told
    show_lineage("a", tmp_path)
    assert "own id" not in capsys.readouterr().out
    show_lineage("own-9", tmp_path)
    told = capsys.readouterr().out
    assert f"9 sample(s) of data/pool: {', '.join(own_ids['own-9'])}\n" in told
    assert "sample sample-4" in told and "sample sample-5" not in told and "the first 5 are shown" in told
    for name in ("own-0", "nobody"):
        with pytest.raises(WorkspaceError, match="by its id or your own"):
            show_lineage(name, tmp_path)


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
