"""Warm-up and scoring as stages: what the proxy's folder brings to the scores, and what is not done twice."""

import multiprocessing
import resource
import shutil
import signal
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from specimens import drawn

from flows.parameters import set_params
from ost.data import write_samples
from ost.errors import WorkspaceError
from ost.models import load_checkpoint
from ost.store import read_json, read_table
from tasks.record.recuration import Recuration
from tasks.settings import load_params
from tasks.stages.run import execute


@pytest.fixture
def workspace(folder, proxy):
    """A folder as `ingest` and `base` leave it."""
    write_samples(folder / "data/pool", drawn("pool", 48, 1))
    write_samples(folder / "data/anchors", drawn("anchors", 12))
    proxy.save(folder / "models/proxy")
    assignments = ["sft.steps=40", "sft.batch_size=4", "warmup.fraction=0.1", "score.checks=20"]
    assignments += ["score.shard_size=20", "score.lookahead.most_steps=4"]
    set_params(folder / "params.yaml", assignments)
    return folder


@pytest.mark.parametrize("rank", [0, 2])
def test_the_warm_up_leaves_what_adam_scores_by(rank, workspace):
    changes = [f"warmup.lora_rank={rank}", "score.method=gradient", "score.optimizer=adam"]
    set_params(workspace / "params.yaml", [*changes, "curate.subsets=[one-step-20]"])
    execute("warmup", workspace)
    warm = load_checkpoint(workspace / "models/proxy-warm")
    moving = {name for name, weight in warm.model.named_parameters() if weight.requires_grad}
    assert set(warm.second_moment) == moving
    assert all("lora_" in name for name in moving) == bool(rank)
    manifest = execute("score-one-step", workspace)
    assert {"models/proxy", "models/proxy-warm"} <= set(manifest["inputs"]), "an adapter is nothing without its base"
    assert {"fidelity", "stability", "lookahead", "toxic_share"} <= set(manifest["metrics"])
    assert manifest["metrics"]["fidelity"] > 0.99
    table = read_table(workspace / "scores/one-step.parquet")
    assert len(table) == 48 and pc.all(pc.is_finite(table["utility_se"])).as_py()


def test_the_warm_proxy_outlives_its_pool_and_nothing_else_that_it_was_made_with(workspace):
    def changed() -> list[str]:
        return Recuration(workspace, load_params(workspace / "params.yaml")).changed_for_proxy()

    assert changed() == ["models/proxy-warm.manifest.json"], "there is none yet"
    execute("warmup", workspace)
    assert changed() == []
    write_samples(workspace / "data/pool", drawn("pool", 24, 2))
    set_params(workspace / "params.yaml", ["sft.learning_rate=1e-4"])
    assert changed() == []
    set_params(workspace / "params.yaml", ["warmup.fraction=0.2", "sft.steps=60"])
    assert changed() == ["warmup", "sft.steps"]
    (workspace / "models/proxy/more.json").write_text("{}")
    shutil.rmtree(workspace / "models/proxy-warm")
    assert set(changed()) == {"models/proxy", "models/proxy-warm", "warmup", "sft.steps"}


def test_scoring_again_reuses_the_published_rows(workspace):
    execute("warmup", workspace)
    first = execute("score-lookahead", workspace)
    (rows,) = [path for path in (workspace / ".ost/scores/lookahead").iterdir() if path.is_dir()]
    stamps = {path: path.stat().st_mtime_ns for path in rows.rglob("*.parquet")}
    assert len(stamps) == 4, "three shards, and the check's rows"
    assert len(list(rows.rglob("*.safetensors"))) == 1
    assert read_json(rows / "plan-fp32.json")["steps"] <= 4
    second = execute("score-lookahead", workspace)
    assert {path: path.stat().st_mtime_ns for path in rows.rglob("*.parquet")} == stamps
    assert second["outputs"] == first["outputs"], "what only this run spent stands in no file that others depend on"
    assert second["flops"] == first["flops"] > 0, "what was made before is part of what the table took"
    spent = second["metrics"]["spent_seconds"]
    assert second["seconds"] > spent > 0 and first["seconds"] > first["metrics"]["spent_seconds"]
    assert (first["metrics"]["scored"], second["metrics"]["scored"]) == (48, 0)
    assert read_json(workspace / "metrics/score-lookahead.json")["checks"]["samples"] == 20


def stored(path: Path) -> dict[Path, pa.Table]:
    """All rows below a folder, without the seconds that they took."""
    return {file: read_table(file).drop_columns("seconds") for file in path.rglob("*.parquet")}


def fill_up(workspace: Path, room: int, said: SimpleQueue) -> None:
    """Score where no file may grow beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        execute("score-one-step", workspace)
    except WorkspaceError as error:
        said.put(str(error))


def test_a_disk_that_is_full_costs_only_what_was_not_written(workspace):
    set_params(workspace / "params.yaml", ["score.method=gradient", "curate.subsets=[one-step-20]"])
    execute("warmup", workspace)
    whole = execute("score-one-step", workspace)
    scores = (workspace / "scores/one-step.parquet").read_bytes()
    shards = stored(workspace / ".ost/scores")
    room = min(file.stat().st_size for file in shards) + 64
    for path in (workspace / ".ost/scores", workspace / "scores"):
        shutil.rmtree(path)
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    process = context.Process(target=fill_up, args=(workspace, room, said))
    process.start()
    process.join()
    message = said.get()
    assert "no room is left to write what score-one-step makes" in message and "free some space" in message
    assert not (workspace / "scores/one-step.parquet").exists(), "half a table stands under its name"
    left = stored(workspace / ".ost/scores")
    assert left.keys() < shards.keys(), "nothing was published, or all of it"
    assert all(rows == shards[path] for path, rows in left.items()), "what was published is not what it should be"
    assert execute("score-one-step", workspace)["outputs"] == whole["outputs"]
    assert (workspace / "scores/one-step.parquet").read_bytes() == scores


def test_scoring_leaves_a_table_of_the_anchors_with_sketches_as_the_pool_has_them(workspace):
    execute("warmup", workspace)
    manifest = execute("score-lookahead", workspace)
    table, scores = (read_table(workspace / f"scores/{name}.parquet") for name in ("lookahead-anchors", "lookahead"))
    assert "scores/lookahead-anchors.parquet" in manifest["outputs"]
    assert table["id"].to_pylist() == [one.id for one in drawn("anchors", 12)]
    assert table["sketch"].type == scores["sketch"].type
    assert pc.all(pc.is_finite(table["left_out"])).as_py() and table["swapped"].null_count < 12
    set_params(workspace / "params.yaml", ["score.sketch=0"])
    execute("score-lookahead", workspace)
    assert "sketch" not in read_table(workspace / "scores/lookahead-anchors.parquet").column_names
