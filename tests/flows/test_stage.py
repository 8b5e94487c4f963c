"""One stage by itself, as `dvc repro` runs it."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from tiny_workspace import ROOT, Shell

from flows.curate import stage_task
from flows.stage import run
from ost.errors import OSTError
from tasks.pipeline import ON_ACCELERATOR
from tasks.stages.run import KINDS


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
