"""DVC is told to watch what a stage has read: images beside the sources, weights in a folder of the user's own."""

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ost.config import Params, parse_params
from tasks.pipeline import NOWHERE, watch_inputs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path):
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    return tmp_path


def stages(workspace: Path) -> dict:
    return YAML(typ="safe").load((workspace / "dvc.yaml").read_text())["stages"]


def read(stage: str, *inputs: str) -> dict:
    return {"stage": stage, "inputs": dict.fromkeys(inputs, "0" * 32)}


BUILTIN = [f"world/{name}.parquet" for name in ("pool", "anchors", "benchmark", "truth")]
MODELS = ["models/target", "models/proxy"]


def test_the_built_in_world_is_watched_as_it_stands(workspace):
    before = (workspace / "dvc.yaml").read_bytes()
    assert not watch_inputs(workspace, Params(), read("ingest", *BUILTIN, *MODELS))
    for role in ("target", "proxy"):
        assert not watch_inputs(workspace, Params(), read(f"base@{role}"))
    assert not watch_inputs(workspace, Params(), read("score", "data/pool"))
    assert (workspace / "dvc.yaml").read_bytes() == before, "git would see a change"


def test_images_beside_a_source_become_dependencies_and_go_again(workspace):
    params = parse_params({"data": {"pool": "pool.jsonl", "anchors": "s3://b/a.jsonl", "truth": None}})
    own = ["pool.jsonl", "img", "s3://b/a.jsonl", "s3://b/img", "world/benchmark.parquet", *MODELS]
    assert watch_inputs(workspace, params, read("ingest", *own))
    deps = stages(workspace)["ingest"]["deps"]
    assert set(deps) == {"${data.pool}", "${data.anchors}", "${data.benchmark}", "img", "s3://b/img", *MODELS}
    assert "# read, check, quarantine" in (workspace / "dvc.yaml").read_text(), "comments stay"
    assert not watch_inputs(workspace, params, read("ingest", *own))
    assert watch_inputs(workspace, params, read("ingest", *(path for path in own if path != "img")))
    assert "img" not in stages(workspace)["ingest"]["deps"]


def test_a_source_of_the_hub_is_no_file_to_watch(workspace):
    params = parse_params({"data": {"pool": "org/name", "truth": None}})
    watch_inputs(workspace, params, read("ingest", *BUILTIN[1:3], *MODELS))
    assert "${data.pool}" not in stages(workspace)["ingest"]["deps"]


def test_weights_in_a_folder_are_watched(workspace):
    params = parse_params({"models": {"target": "mine/target"}})
    assert watch_inputs(workspace, params, read("base@target", "mine/target"))
    own = stages(workspace)["base"]["foreach"]
    assert own == {"target": {"weights": "mine/target"}, "proxy": {"weights": NOWHERE}}
    assert watch_inputs(workspace, Params(), read("base@target"))
    assert stages(workspace)["base"]["foreach"]["target"] == {"weights": NOWHERE}
