"""The stage `evaluate`: what it leaves, and what it tells."""

from dataclasses import replace

import pytest
from specimens import drawn

from flows.parameters import set_params
from ost.data import Facts, ShardWriter, write_samples
from ost.data.dataset import write_listing
from ost.data.picture import size_of
from ost.errors import ConfigError
from ost.store import read_json, read_table, write_json
from tasks.stages.run import execute


@pytest.fixture
def workspace(folder, proxy):
    """A folder with a base model, in place of the target a trained one, and a benchmark of eight samples."""
    samples = drawn("benchmark", 8)
    write_samples(folder / "data/benchmark", samples)
    for place in ("models/target", "models/sft/full-B"):
        proxy.save(folder / place)
        write_json(folder / f"{place}.manifest.json", {"metrics": {"samples": 20.0, "steps": 4.0}})
    return folder


def test_what_an_evaluation_leaves(workspace):
    manifest = execute("evaluate-full-B", workspace)
    record, answers = (
        read_json(workspace / "evaluations/full-B.json"),
        read_table(workspace / "evaluations/full-B.parquet"),
    )
    assert answers.column_names == ["id", "prediction", "score", "correct", "cut", "cluster"]
    scores = answers["score"].to_pylist()
    assert answers["correct"].to_pylist() == [score >= 0.5 for score in scores]
    assert record["accuracy"] == sum(scores) / 8 == manifest["metrics"]["accuracy"]
    assert record["interval"][0] <= record["accuracy"] <= record["interval"][1]
    assert set(record["metrics"]) == set(record["by_task"]) and set(record["metrics"].values()) == {"final"}
    assert (record["metric"], record["max_new_tokens"], record["longer"]) == ("final", 16, 0.0)
    assert (record["samples"], record["steps"]) == (20, 4)
    assert record["cut"] == sum(answers["cut"].to_pylist()) / 8 and 0 <= record["empty"] <= 1


def test_what_auto_took_is_said_with_the_base_model_and_cut_answers_with_every_one(workspace):
    set_params(workspace / "params.yaml", ["evaluate.metric=auto", "evaluate.max_new_tokens=2"])
    base, trained = (execute(stage, workspace)["warnings"] for stage in ("evaluate-base", "evaluate-full-B"))
    assert base[0].startswith("evaluate.metric is auto, and took exact (difference, maximum, product, sum): set it")
    assert base[1:] == trained and "100% of the answers were cut at 2 tokens" in trained[1]
    assert "may take 2 tokens, and the references of 100.0% of the samples are longer" in trained[0]
    record = read_json(workspace / "evaluations/base.json")
    assert (record["metric"], record["metrics"]["sum"], record["longer"]) == ("auto", "exact", 1.0)


def test_a_folder_of_benchmarks_is_judged_file_by_file(workspace):
    """Each with a metric of its own; a sample that names its task keeps it."""
    samples = [replace(sample, task="") for sample in drawn("benchmark", 6)] + drawn("benchmark", 8)[6:]
    files = ["docvqa.jsonl", "chartqa.jsonl.gz"]
    with ShardWriter(workspace / "data/sets") as writer:
        for at, sample in enumerate(samples):
            writer.add(sample, Facts(40, 3, tuple(map(size_of, sample.images)), files[at % 2], at, None))
    write_listing(workspace / "data/sets", writer.shards, {})
    (workspace / "data/benchmark").unlink()
    (workspace / "data/sets").rename(workspace / "data/benchmark")
    set_params(workspace / "params.yaml", ["evaluate.metric={docvqa: anls, chartqa: number}"])
    execute("evaluate-full-B", workspace)
    record = read_json(workspace / "evaluations/full-B.json")
    own = {sample.task: "exact" for sample in samples[6:]}
    assert record["metrics"] == {"docvqa": "anls", "chartqa": "number"} | own
    assert record["by_task"].keys() == record["metrics"].keys()
    set_params(workspace / "params.yaml", ["evaluate.metric={docz: anls}"])
    with pytest.raises(ConfigError, match="names the task 'docz', and the benchmark's are 'chartqa', 'docvqa'"):
        execute("evaluate-full-B", workspace)
    with pytest.raises(ConfigError, match="no metric is named 'f1'"):
        set_params(workspace / "params.yaml", ["evaluate.metric={docvqa: f1}"])
