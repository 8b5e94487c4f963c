"""The stage `evaluate` by a suite: a command of the user's own is given the model, and its log is the evaluation."""

import sys
from pathlib import Path

import pytest
import torch
from specimens import drawn

from flows.parameters import set_params
from ost.comparison.challenge import paired_gain
from ost.errors import ConfigError, EvaluationError, TrainingError
from ost.execution.device import VISIBLE, Devices
from ost.models import add_adapter, load_checkpoint
from ost.store import read_json, read_table, write_json
from tasks.settings import Params
from tasks.slots import Slots
from tasks.stages.command import run_command
from tasks.stages.context import Context
from tasks.stages.run import execute

SUITE = """
import json, shutil, sys
from pathlib import Path
model, tasks, out = sys.argv[1:]
shutil.copytree(model, "seen")
for task in tasks.split(","):
    own = Path(out) / "models"
    own.mkdir(exist_ok=True)
    lines = [{"doc_id": at, "target": "A", "filtered_resps": "A", "acc": float(at > 0)} for at in range(4)]
    (own / f"20261128_183551_samples_{task}.jsonl").write_text("".join(json.dumps(one) + "\\n" for one in lines))
    (own / "20261128_183551_results.json").write_text(json.dumps({"results": {task: {"acc,none": 0.75}}}))
print("done")
"""
RIGHT = [False, True, True, True]


@pytest.fixture
def workspace(folder, proxy):
    """A folder with a target and a model that was trained on it, and no benchmark of its own."""
    for place in ("models/target", "models/sft/full-B"):
        proxy.save(folder / place)
        write_json(folder / f"{place}.manifest.json", {"metrics": {"samples": 20.0, "steps": 4.0}})
    return folder


def told(workspace: Path, script: str = SUITE) -> None:
    """Have the workspace evaluated by a script."""
    (workspace / "suite.py").write_text(script)
    command = f"{sys.executable} {workspace / 'suite.py'} {{model}} {{tasks}} {{out}}"
    suite = ["evaluate.suite=lmms-eval", "evaluate.suite_tasks=[mmmu_val, pope]", f"evaluate.suite_command={command}"]
    set_params(workspace / "params.yaml", suite)


def test_an_evaluation_by_a_suite_is_like_one_on_the_own_benchmark(workspace):
    told(workspace)
    manifest = execute("evaluate-full-B", workspace)
    record, answers = (
        read_json(workspace / "evaluations/full-B.json"),
        read_table(workspace / "evaluations/full-B.parquet"),
    )
    assert answers.column_names == ["id", "prediction", "score", "correct", "cut", "cluster"]
    assert answers["id"].to_pylist() == [f"{task}/{at}" for task in ("mmmu_val", "pope") for at in range(4)]
    assert answers["correct"].to_pylist() == RIGHT * 2 and answers["cluster"].to_pylist() == list(range(8))
    assert record["accuracy"] == 0.75 == manifest["metrics"]["accuracy/pope"] and record["steps"] == 4
    assert record["by_task"] == {"mmmu_val": 0.75, "pope": 0.75} and record["interval"][0] < 0.75
    assert (record["metrics"]["pope"], record["max_new_tokens"], record["cut"]) == ("acc", None, 0)
    assert set(manifest["inputs"]) == {"models/sft/full-B", "models/sft/full-B.manifest.json"}
    assert (workspace / ".ost/suite/evaluate-full-B.log").read_text() == "done\n"
    assert not (workspace / ".ost/suite/evaluate-full-B").exists()
    scores = answers["score"].to_numpy()
    assert paired_gain(scores * 0, scores, clusters=answers["cluster"].to_numpy()).mean == 0.75


@pytest.mark.parametrize(("accelerated", "seen"), [(True, "1,3"), (False, "")])
def test_a_command_sees_all_devices_that_its_stage_holds(accelerated, seen, tmp_path, monkeypatch):
    monkeypatch.setenv(VISIBLE, "")
    slots = Slots(tmp_path, Devices(("0", "1", "3"), accelerated), ("1", "3"))
    ctx = Context(tmp_path, "sft-full-B", Params(), slots=slots)
    run_command(ctx, "sft.command", f"echo seen=${VISIBLE}", tmp_path / "log", TrainingError)
    assert (tmp_path / "log").read_text() == f"seen={seen}\n"


def test_an_adapter_is_merged_into_whole_weights_for_the_run(workspace):
    told(workspace)
    tuned = load_checkpoint(workspace / "models/target")
    add_adapter(tuned.model, 2, 0)
    for name, weight in tuned.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    tuned.save(workspace / "models/sft/full-B")
    execute("evaluate-full-B", workspace)
    assert (workspace / "seen/model.safetensors").is_file() and not (workspace / "seen/adapter_config.json").exists()
    seen, (sample,) = load_checkpoint(workspace / "seen"), drawn("benchmark", 1)
    prompt = seen.tokenizer(sample.answer, return_tensors="pt")
    with torch.no_grad():
        merged, adapted, base = (
            one.model(**prompt).logits for one in (seen, tuned, load_checkpoint(workspace / "models/target"))
        )
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, base, atol=1e-2), "the adapter changes nothing"
    assert seen.processor is not None and not (workspace / ".ost/suite/evaluate-full-B").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; print('no such dataset'); sys.exit(3)", r"suite_command ended with 3(.|\n)*no such dataset"),
        ("print('Error during evaluation')", r"left no log of samples(.|\n)*full-B.log(.|\n)*Error during evaluation"),
    ],
)
def test_a_suite_that_fails_is_told_with_what_it_said_last(script, said, workspace):
    told(workspace, script)
    with pytest.raises(EvaluationError, match=said):
        execute("evaluate-full-B", workspace)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["evaluate.suite=lmms-eval"], r"name some in evaluate.suite_tasks"),
        (["evaluate.suite=vlmevalkit"], "'lmms-eval'"),
        (["evaluate.suite_tasks=[a b]"], "pattern"),
        (["evaluate.suite_command=run {model} {out}"], r"it has no \{tasks\}: it finds the model in \{model\}"),
        (["evaluate.suite_command=run {model} {tasks} {out} {gpu}"], r"it asks for 'gpu'; it can have \{model\}"),
    ],
)
def test_what_a_suite_cannot_be_told_is_refused_before_anything_runs(given, said, workspace):
    with pytest.raises(ConfigError, match=said):
        set_params(workspace / "params.yaml", given)
