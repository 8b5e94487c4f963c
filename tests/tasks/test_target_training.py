"""How the target is trained: by all weights or an adapter, by ours or the user's own trainer, killed or not."""

import json
import multiprocessing
import os
import signal
import sys

import pytest
import torch
from export_pools import pool_of
from safetensors.torch import load_file
from specimens import drawn
from torch import distributed

from flows.parameters import set_params
from ost.data import write_samples
from ost.errors import ConfigError, TrainingError
from ost.execution.device import Devices
from ost.models import load_checkpoint
from ost.selection import selection_table
from ost.store import read_json, write_json, write_table
from tasks.slots import Slots
from tasks.stages.run import execute
from tasks.stages.shared import shared

POOL = drawn("pool", 8)
SETTINGS = ["sft.steps=2", "sft.batch_size=4", "evaluate.max_new_tokens=2", "curate.subsets=[full, lookahead-50]"]
WEIGHTS = "model.safetensors"


@pytest.fixture
def workspace(folder, proxy):
    """A folder as `ingest`, `base` and `select` leave it."""
    pool_of(folder / "data/pool", [(sample, at) for at, sample in enumerate(POOL)], [40] * len(POOL))
    for name in ("anchors", "benchmark"):
        write_samples(folder / f"data/{name}", drawn(name, 3))
    proxy.save(folder / "models/target")
    write_json(folder / "models/target.manifest.json", {})
    set_params(folder / "params.yaml", SETTINGS)
    ids = [sample.id for sample in POOL]
    for subset, kept in {"full": ids, "lookahead-50": ids[:4]}.items():
        write_table(folder / f"selections/{subset}.parquet", selection_table(ids, kept, "left out"))
    return folder


def told(workspace, *settings: str) -> None:
    set_params(workspace / "params.yaml", list(settings))


def test_an_adapter_is_kept_without_its_base_and_answers_with_it(workspace):
    told(workspace, "sft.method=lora", "sft.lora_rank=4", "sft.layers=language")
    made = execute("sft-lookahead-50-B", workspace)
    folder = workspace / "models/sft/lookahead-50-B"
    adapter = load_file(folder / "adapter_model.safetensors")
    assert not (folder / WEIGHTS).exists() and adapter
    assert not any("visual" in name for name in adapter), "the tower is trained too"
    assert any(weight.any() for name, weight in adapter.items() if "lora_B" in name), "nothing was learned"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../target"
    assert made["metrics"]["learning_rate"] == 1e-3 and made["metrics"]["loss"] > 0
    assert execute("evaluate-lookahead-50-B", workspace)["metrics"]["accuracy"] >= 0
    told(workspace, "sft.layers=all")
    execute("sft-lookahead-50-B", workspace)
    assert any("visual" in name for name in load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("layers", ["language", "all"])
def test_a_tower_moves_only_where_everything_is_trained(layers, workspace):
    told(workspace, f"sft.layers={layers}")
    execute("sft-full-B", workspace)
    before, after = (load_file(workspace / f"models/{name}/{WEIGHTS}") for name in ("target", "sft/full-B"))
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert any("language_model" in name for name in moved)
    assert any("visual" in name for name in moved) == (layers == "all")


def test_epochs_and_rate_follow_from_pool_and_model_where_they_are_not_set(workspace):
    told(workspace, "sft.steps=null", "sft.epochs=3", "sft.learning_rate=null", "sft.batch_size=3")
    metrics = execute("sft-full-B", workspace)["metrics"]
    assert metrics["steps"] == 8 and metrics["learning_rate"] == 1e-3
    assert execute("sft-lookahead-50-A", workspace)["metrics"]["steps"] == 4
    told(workspace, "sft.method=lora")
    assert execute("sft-full-B", workspace)["metrics"]["learning_rate"] == 2e-3


def test_a_finished_training_leaves_nothing_that_was_saved_for_a_kill(workspace, monkeypatch):
    monkeypatch.setattr("ost.training.saved.LEAST", 0.0)
    monkeypatch.setattr("ost.training.saved.SHARE", 1e9)
    execute("sft-full-B", workspace)
    assert not list((workspace / ".ost/training").glob("*.safetensors"))


TWO = Devices(("cpu-0", "cpu-1"), False)


def test_a_training_that_two_devices_share_comes_to_what_one_comes_to(workspace):
    """With a last batch of an epoch that is smaller than the others."""
    told(workspace, "sft.batch_size=3", "sft.steps=4")
    alone, file = execute("sft-full-B", workspace), workspace / f"models/sft/full-B/{WEIGHTS}"
    before = load_file(file)
    shared = execute("sft-full-B", workspace, slots=Slots(workspace, TWO, TWO.names))
    assert shared["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)
    assert all((weight - before[name]).abs().max() < 1e-4 for name, weight in load_file(file).items())
    assert not distributed.is_initialized() and "RANK" not in os.environ


def fail(said: str) -> None:
    raise TrainingError(said)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("join", "args", "said"),
    [(fail, ("the loss is nan",), "the loss is nan"), (die, (), "ended from outside, most likely for want of memory")],
)
def test_what_ends_a_process_that_shares_a_training_ends_the_training(join, args, said, folder):
    with pytest.raises(TrainingError, match=said), shared(Slots(folder, TWO, TWO.names), join, *args):
        distributed.all_reduce(torch.ones(1))
    assert not distributed.is_initialized() and not multiprocessing.active_children()


TRAINER = """
import sys
from pathlib import Path
from datasets import load_dataset
from transformers import AutoModelForImageTextToText
data, model, out, steps = sys.argv[1:]
samples = load_dataset("parquet", data_files=f"{data}/data/train-*.parquet", split="train")
print("samples:", len(samples), "steps:", steps)
own = AutoModelForImageTextToText.from_pretrained(model)
own.lm_head.weight.data.mul_(2.0)
own.save_pretrained(Path(out) / "checkpoint-2")
"""


def command(folder, script: str = TRAINER) -> str:
    """A setting that runs a script as the user's own trainer."""
    (folder / "trainer.py").write_text(script)
    return f"sft.command={sys.executable} {folder / 'trainer.py'} {{data}} {{model}} {{out}} {{steps}}"


def test_the_model_of_a_trainer_of_ones_own_is_the_arms(workspace):
    told(workspace, command(workspace))
    made = execute("sft-lookahead-50-B", workspace)
    assert "samples: 4 steps: 2\n" in (workspace / ".ost/training/sft-lookahead-50-B.log").read_text()
    before, after = (load_checkpoint(workspace / f"models/{name}") for name in ("target", "sft/lookahead-50-B"))
    torch.testing.assert_close(after.model.lm_head.weight, 2 * before.model.lm_head.weight)
    assert after.processor is not None and made["metrics"]["samples"] == 4 and made["seconds"] > 0
    assert execute("evaluate-lookahead-50-B", workspace)["metrics"]["accuracy"] >= 0
    assert read_json(workspace / "evaluations/lookahead-50-B.json")["steps"] == 2


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys; print('out of luck'); sys.exit(3)", r"sft.command ended with 3(.|\n)*out of luck"),
        ("print('nothing')", "left no model in"),
    ],
)
def test_a_trainer_that_fails_is_told_with_what_it_said_last(script, said, workspace):
    told(workspace, command(workspace, script))
    with pytest.raises(TrainingError, match=said):
        execute("sft-lookahead-50-B", workspace)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sft.command=train {data} {model}", r"it has no \{out\}"),
        ("sft.command=train {data} {model} {out} {rate}", r"it asks for 'rate'; it can have \{data\}"),
        ("sft.method=qlora", "'full' or 'lora'"),
    ],
)
def test_what_a_training_cannot_be_told_is_refused_before_anything_runs(given, said, workspace):
    with pytest.raises(ConfigError, match=said):
        told(workspace, given)
