"""A workspace of one's own: `ost init` makes it of what lies in a folder, and `ost plan` shows what will run in it."""

import shutil
from pathlib import Path

import pytest
import yaml
from pools import record, write_jsonl
from tiny_workspace import Shell, shell_in

from flows.cli.init import init_workspace
from flows.lock import claim
from flows.parameters import set_params
from flows.workspaces import planned
from ost.data import Dataset
from ost.errors import ConfigError, DataError
from ost.models import Checkpoint
from ost.worlds.tiny import TARGET, build_model
from tasks.plan import Plan
from tasks.settings import load_params

pytestmark = pytest.mark.usefixtures("on_one_server")

ROOT = Path(__file__).parents[2]
SETS = {"pool": 40, "anchors": 4, "benchmark": 6}
GIVEN = dict.fromkeys(("pool", "anchors", "benchmark", "target", "proxy"))


@pytest.fixture(scope="module")
def own(fresh, processor, tmp_path_factory) -> Path:
    """What a user has in a folder: three sample sets, pictures, a note, and two models."""
    folder = tmp_path_factory.mktemp("own")
    for name, count in SETS.items():
        write_jsonl(folder, [record(f"{name} {number}?", f"{number}") for number in range(count)], f"{name}.jsonl")
    (folder / "pool-pictures").mkdir()
    (folder / "pool-pictures/a.png").write_bytes(b"no samples")
    (folder / "notes.txt").write_text("a note")
    fresh.save(folder / "a-small-model")
    Checkpoint(build_model(TARGET, processor, 0), processor).save(folder / "the-model")
    return folder


@pytest.fixture
def shell(own, tmp_path, prefect_home) -> Shell:
    """That folder, to be changed at will."""
    made = shell_in(tmp_path / "workspace", prefect_home)
    shutil.copytree(own, made.root, dirs_exist_ok=True)
    return made


def test_a_folder_with_all_that_is_needed_becomes_a_workspace_that_runs(shell):
    printed = shell.ost("init")
    params = load_params(shell.root / "params.yaml")
    assert (params.data.pool, params.data.anchors, params.data.benchmark, params.data.truth) == (
        "pool.jsonl",
        "anchors.jsonl",
        "benchmark.jsonl",
        None,
    )
    assert (params.models.target, params.models.proxy) == ("the-model", "a-small-model"), "the larger is fine-tuned"
    assert params.score.lookahead.learning_rate is None, "it follows from the proxy's size"
    assert params.sft.method == "lora" and params.sft.steps_over(SETS["pool"]) == 2
    assert len(Plan(planned(params)).check().trainings) == 4, "`ost compare` as it is asks for no truth"
    text = (shell.root / "params.yaml").read_text()
    assert len(text.splitlines()) <= 30 and "epochs: 1 # over the whole pool" in text
    assert all(word in printed for word in ("the-model", "a-small-model", "pool.jsonl", "ost curate --until select"))
    assert "world" not in yaml.safe_load((shell.root / "dvc.yaml").read_text())["stages"]
    assert "✓ ingest " in shell.ost("curate", "--until", "ingest")
    assert {name: len(Dataset(shell.root / f"data/{name}")) for name in SETS} == SETS

    lines = shell.ost("plan").splitlines()
    states = {line.split()[0]: line for line in lines if line.rstrip().endswith(("up to date", "to run"))}
    assert "up to date" in states["ingest"] and "scores/lookahead.parquet" in states["select-lookahead-20"]
    assert "to run" in states["select-lookahead-20"] and "to run" in states["sft-lookahead-20-B"]
    assert "3 subset(s), 3 training(s)" in "\n".join(lines) and "world" not in states


def test_a_workspace_is_not_made_over(shell):
    (shell.root / "params.yaml").write_text("seed: 7\n")
    said = shell.ost("init", ok=False)
    assert "params.yaml is there already: change it, or name another folder" in said and "Traceback" not in said
    assert (shell.root / "params.yaml").read_text() == "seed: 7\n"


def test_what_is_missing_is_named_with_its_option(shell):
    """Also what there is a choice of; nobody can be asked where there is no terminal."""
    (shell.root / "anchors.jsonl").unlink()
    shutil.copytree(shell.root / "the-model", shell.root / "third-model")
    said = shell.ost("init", ok=False)
    assert "looks like the anchors or the target or the proxy: name it, --anchors … --target … --proxy …" in said
    assert "Traceback" not in said and not (shell.root / "params.yaml").exists()


def test_what_is_named_goes_before_what_lies_there_and_is_found_from_the_workspace(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own)
    shutil.copyfile("anchors.jsonl", tmp_path / "trusted: #1.jsonl")
    there = tmp_path / "there"
    trusted = str(tmp_path / "trusted: #1.jsonl")
    named = {"pool": "pool.jsonl", "anchors": trusted, "benchmark": "benchmark.jsonl"}
    init_workspace(there, named | {"target": "org/model", "proxy": "the-model"})
    params = load_params(there / "params.yaml")
    assert params.data.pool == str(own / "pool.jsonl") and params.models.proxy == str(own / "the-model")
    assert params.data.anchors == trusted and params.models.target == "org/model"


def test_a_pool_in_object_storage_is_not_fetched(own, tmp_path):
    named = {name: str(own / f"{name}.jsonl") for name in SETS} | {"pool": "s3://bucket/pool"}
    init_workspace(tmp_path, GIVEN | named | {"target": "org/model", "proxy": "org/small"})
    assert load_params(tmp_path / "params.yaml").data.pool == "s3://bucket/pool"


def test_a_pool_that_cannot_be_read_leaves_nothing_behind(own, tmp_path):
    named = {name: str(own / f"{name}.jsonl") for name in SETS} | {"pool": "nowhere.jsonl"}
    with pytest.raises(DataError, match=r"nothing is at .*nowhere\.jsonl"):
        init_workspace(tmp_path, GIVEN | named | {"target": "org/model", "proxy": "org/small"})
    assert not list(tmp_path.iterdir())


def test_a_plan_outside_a_workspace_is_an_error_without_a_traceback(tmp_path, prefect_home):
    said = shell_in(tmp_path / "empty", prefect_home).ost("plan", ok=False)
    assert "error: no params.yaml in" in said and "Traceback" not in said


def test_a_workspace_of_a_built_in_world_is_made_by_its_name(tmp_path, prefect_home):
    shell = shell_in(tmp_path / "words", prefect_home)
    assert "ost curate" in shell.ost("init", "--world", "wordmath")
    made, demo = load_params(shell.root / "params.yaml"), load_params(ROOT / "params.yaml")
    assert made.world.name == "wordmath" and made.sft == demo.sft and made.warmup == demo.warmup
    assert "to run" in shell.ost("plan") and (shell.root / ".gitignore").read_text().startswith("/data/\n/world/")
    assert "is there already" in shell.ost("init", "--world", "wordmath", ok=False)
    said = shell.ost("init", "other", "--world", "wordmath", "--pool", "pool.json", "--proxy", "tiny", ok=False)
    assert "leave --pool, --proxy out, or --world" in said and not (shell.root / "other").exists()


def test_params_yaml_is_left_alone_while_a_run_is_at_work(tmp_path, prefect_home):
    shell = shell_in(tmp_path / "words", prefect_home)
    shell.ost("init", "--world", "wordmath")
    before = (shell.root / "params.yaml").read_text()
    with claim(shell.root / ".ost/lock"):
        said = shell.ost("curate", "--set", "sft.steps=7", ok=False)
    assert "is at work in" in said and "Traceback" not in said
    assert (shell.root / "params.yaml").read_text() == before


def test_what_cannot_be_had_is_refused_before_params_yaml_changes_and_null_stays_null(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("score: {step: null} # a note\ncurate:\n  subsets: [lookahead-20] # kept\n")
    before = file.read_text()
    with pytest.raises(ConfigError, match="only arms by utility"):
        set_params(file, ["curate.subsets=[random-pure, lookahead-20]"])
    assert file.read_text() == before
    set_params(file, ["select.among=null", "score.folds=3"])
    written = file.read_text()
    assert "step: null" in written and "among: null" in written and "# a note" in written and "# kept" in written
