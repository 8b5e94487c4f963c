"""`evaluate.suite` with lmms-eval's own command, in an environment of its own: its log is the model's evaluation."""

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
from checkpoint import save_checkpoint
from environments import environment
from specimens import drawn

from flows.parameters import set_params
from ost.errors import EvaluationError
from ost.models import add_adapter, load_checkpoint
from ost.store import read_json, read_table, write_json
from tasks.stages.run import execute

ROOT = Path(__file__).parents[2]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.visual
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4}}
"""
EXACT = "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
OWN = """process_results: !function functions.{0}_process_results
metric_list: [{{metric: {1}, aggregation: !function functions.{2}, higher_is_better: true}}]
"""
FUNCTIONS = """
from PIL import Image
from lmms_eval.tasks.mme.utils import mme_aggregate_results, mme_process_results
from lmms_eval.tasks.mmmu.utils import mmmu_aggregate_results, mmmu_process_results
from lmms_eval.tasks.pope.utils import pope_aggregate_accuracy, pope_process_results
from lmms_eval.tasks.seedbench.utils import seed_aggregation_result, seed_process_result

seed_process_results = seed_process_result


def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")] if "image" in doc else []
"""
OWNERS = {
    "mme": ("mme_cognition_score", "mme_aggregate_results"),
    "mmmu": ("mmmu_acc", "mmmu_aggregate_results"),
    "pope": ("pope_accuracy", "pope_aggregate_accuracy"),
    "seed": ("seed_all", "seed_aggregation_result"),
}
"""Task → metric of its own, and what aggregates this."""
CHOICE = {"question_type": "multiple-choice", "options": "['red', 'blue']"}
OPEN = {"question_type": "open", "options": "[]"}
DOCUMENTS = {
    "mme": [{"category": "code_reasoning", "answer": answer} for answer in ("yes", "no")],
    "mmmu": [
        CHOICE | {"id": "validation_Art_1", "answer": "A"},
        CHOICE | {"id": "validation_Art_2", "answer": "B"},
        OPEN | {"id": "validation_Music_1", "answer": "1,234"},
        OPEN | {"id": "validation_Music_2", "answer": "(a)"},
    ],
    "pope": [{"answer": answer} for answer in ("yes", "no", "no")],
    "seed": [{"answer": answer, "data_type": "image"} for answer in ("Y", "B")],
}
SCORES = {"yes": {"mme": [1, 0], "pope": [1, 0, 0], "seed": [1, 0]}, "(A)": {"mmmu": [1, 0, 0, 1]}}
"""Answer to every question → the samples' scores."""


def make_task(folder: Path, name: str, documents: list[dict], scored: str) -> None:
    """A task of lmms-eval's form on local documents."""
    folder.mkdir(exist_ok=True)
    (folder / "functions.py").write_text(FUNCTIONS)
    data = folder / f"{name}.jsonl"
    asked = ({"question": "Is it?", "question_id": name} | document for document in documents)
    data.write_text("".join(json.dumps(document) + "\n" for document in asked))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data) + scored)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    save_checkpoint(folder / "models/target")
    tuned = load_checkpoint(folder / "models/target")
    add_adapter(tuned.model, 2, 0)
    tuned.save(folder / "models/sft/full-B")
    for place in ("models/target", "models/sft/full-B"):
        write_json(folder / f"{place}.manifest.json", {})
    for name, (metric, aggregate) in OWNERS.items():
        make_task(folder / "suite", f"my_{name}", DOCUMENTS[name], OWN.format(name, metric, aggregate))
    pictures = []
    for number, sample in enumerate(drawn("benchmark", 3)):
        (folder / f"{number}.png").write_bytes(sample.images[0])
        pictures.append({"image": str(folder / f"{number % 2}.png"), "answer": sample.answer})
    make_task(folder / "suite", "digits", pictures, EXACT)
    return folder


def told(workspace: Path, model: str, tasks: str) -> None:
    """Have the workspace evaluated by lmms-eval, through a class of its models."""
    line = f"HF_HUB_OFFLINE=1 HF_HOME=cache OMP_NUM_THREADS=1 {environment('lmms_eval')} -m lmms_eval {model}"
    line += " --tasks {tasks} --include_path suite --batch_size 1 --log_samples --output_path {out}"
    given = ["evaluate.suite=lmms-eval", f"evaluate.suite_tasks=[{tasks}]", f"evaluate.suite_command={line}"]
    set_params(workspace / "params.yaml", given)


def test_a_model_with_its_adapter_is_asked_and_its_answers_are_the_evaluation(workspace):
    told(
        workspace, "--model llava_hf --model_args pretrained={model},device=cpu,device_map=cpu,dtype=float32", "digits"
    )
    made = execute("evaluate-full-B", workspace)
    answers = read_table(workspace / "evaluations/full-B.parquet")
    assert answers["id"].to_pylist() == ["digits/0", "digits/1", "digits/2"]
    assert answers["cluster"].to_pylist() == [0, 1, 0], "the first and the third are on one picture"
    assert read_json(workspace / "evaluations/full-B.json")["metrics"] == {"digits": "exact_match"}
    assert made["metrics"]["accuracy/digits"] == 0 and "every one of 3 answers scores 0 %" in made["warnings"][0]


@pytest.mark.parametrize("answer", SCORES)
def test_scores_are_found_as_tasks_of_lmms_eval_log_them(answer, workspace):
    scores = {f"my_{name}": own for name, own in SCORES[answer].items()}
    told(workspace, f"--model dummy --model_args 'response={answer},pretrained={{model}}'", ", ".join(scores))
    execute("evaluate-base", workspace)
    answers, record = read_table(workspace / "evaluations/base.parquet"), read_json(workspace / "evaluations/base.json")
    assert answers["score"].to_pylist() == [score for own in scores.values() for score in own]
    assert answers["prediction"].to_pylist() == [answer] * len(answers)
    assert record["by_task"] == {name: pytest.approx(fmean(own)) for name, own in scores.items()}
    assert record["metrics"] == {f"my_{name}": OWNERS[name][0] for name in SCORES[answer]}


def test_a_failure_is_told_though_lmms_eval_ends_as_if_there_were_none(workspace):
    told(workspace, "--model dummy --model_args pretrained={model}", "nowhere")
    with pytest.raises(EvaluationError, match=r"left no log of samples(.|\n)*Tasks not found: nowhere"):
        execute("evaluate-base", workspace)
