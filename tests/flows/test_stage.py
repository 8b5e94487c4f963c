"""One stage by itself, as `dvc repro` runs it."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from tiny_workspace import ROOT, Shell

from flows.curate import stage_task
from flows.lock import claim
from flows.parameters import set_params
from flows.stage import run
from ost.errors import OSTError, WorkspaceError
from stack.processes import free_ports
from tasks.pipeline import ON_ACCELERATOR
from tasks.record.outbox import FOLDER
from tasks.stages.run import KINDS, execute

SMALL = ["world.pool=20", "world.anchors=4", "world.benchmark=4", "world.errors=rules"]


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("scores", "no stage named 'scores'; they are named by world"),
        ("sft-lookahead-20-C", "no training is named 'lookahead-20-C'"),
        ("select-nobody-20", "no arm is named 'nobody'; known: full"),
        ("score-nobody", "no scores are named 'nobody'; known:"),
    ],
)
def test_an_unknown_stage_is_an_error_that_names_the_known(folder, stage, said):
    with pytest.raises(OSTError, match=re.escape(said)):
        run(stage, folder)


def test_what_is_wrong_is_told_without_a_traceback(folder):
    text = Shell(folder).run(sys.executable, "-m", "flows.stage", "scores", ok=False)
    assert "error: no stage named 'scores'" in text and "Traceback" not in text


def test_what_uses_the_accelerator_can_be_limited():
    assert set(ON_ACCELERATOR) <= set(KINDS)
    for stage in (
        "base-target",
        "score-deita",
        "score-lookahead",
        "sft-full-B",
        "evaluate-base",
        "trial-lookahead-20-B",
    ):
        assert stage_task(stage).tags == {"accelerator"}, stage
    for stage in ("world", "ingest", "select-lookahead-20", "select-full", "report"):
        assert stage_task(stage).tags == set(), stage


def test_while_a_flow_is_at_work_dvc_is_refused(folder):
    with claim(folder / ".ost/lock"), pytest.raises(WorkspaceError, match=r"process \d+ is at work in"):
        run("world", folder)
    assert not (folder / "world").exists()


def test_without_a_server_the_stage_is_done_and_its_record_kept(folder, monkeypatch, capsys):
    (port,) = free_ports(1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    set_params(folder / "params.yaml", SMALL)
    assert run("world", folder)["outputs"]
    assert len(list((folder / FOLDER).glob("*.json"))) == 1
    assert "MLflow has not taken 1 records" in capsys.readouterr().out


def test_what_ran_with_other_parameters_than_params_yaml_has_is_refused(folder, monkeypatch):
    """DVC reads them when the command has ended."""

    def edited_meanwhile(*arguments) -> dict:
        manifest = execute(*arguments)
        set_params(folder / "params.yaml", [edit])
        return manifest

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("flows.stage.execute", edited_meanwhile)
    set_params(folder / "params.yaml", SMALL)
    edit = "sft.steps=17"
    run("world", folder)
    edit = "world.pool=24"
    with pytest.raises(WorkspaceError, match=r"params.yaml changed while world ran: world\. .*: run again"):
        run("world", folder)
