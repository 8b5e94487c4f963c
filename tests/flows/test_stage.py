"""One stage by itself, as `dvc repro` runs it."""

import sys

import pytest

from flows.curate import stage_task
from ost.store import digest
from tasks.pipeline import ON_ACCELERATOR
from tasks.settings import load_params
from tasks.stages.run import KINDS
from tasks.tracking import Tracker


def test_a_stage_run_by_dvc_leaves_the_flows_bytes_and_is_recorded_as_dvcs(copied):
    files = sorted((copied.root / "selections").glob("*.parquet"))
    before = {path: digest(path) for path in files}
    (copied.root / "selections/lookahead-20.parquet").unlink()
    printed = copied.run("dvc", "repro", "--single-item", "select-lookahead-20", "--no-run-cache", "--force")
    assert "✓ select-lookahead-20 " in printed
    assert {path: digest(path) for path in files} == before, "the flow and `dvc repro` leave different bytes"
    tracker = Tracker(copied.root, load_params(copied.root / "params.yaml"))
    newest, older = tracker.runs_with("ost.stage", "select-lookahead-20")
    parent = tracker.client.get_run(newest.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["ost.orchestrator"] == "dvc"
    assert parent.info.status == "RUNNING", "later stages of the same repro would find no parent to join"
    assert newest.data.tags["ost.flow_run"] == ""
    assert len(older.data.tags["ost.flow_run"]) == 36
    outputs = [
        {name: md5 for name, md5 in run.data.tags.items() if name.startswith("dvc.out.")} for run in (newest, older)
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("scores", "no stage named 'scores'; they are named by world"),
        ("sft-lookahead-20-C", "no training is named 'lookahead-20-C'"),
        ("select-nobody-20", "no arm is named 'nobody'; known: full"),
        ("score-nobody", "no scores are named 'nobody'; known:"),
    ],
)
def test_an_unknown_stage_is_an_error_without_a_traceback(curated, stage, said):
    text = curated.run(sys.executable, "-m", "flows.stage", stage, ok=False)
    assert f"error: {said}" in text
    assert "Traceback" not in text


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
