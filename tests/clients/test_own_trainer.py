"""`sft.command` with TRL's own command, in TRL's own environment: its model is the arm's."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoint import save_checkpoint
from environments import environment
from export_pools import pool_of
from safetensors.torch import load_file
from specimens import drawn

from flows.parameters import set_params
from ost.data import write_samples
from ost.selection import selection_table
from ost.store import write_json, write_table
from tasks.stages.run import execute

ROOT = Path(__file__).parents[2]
POOL = drawn("pool", 8)
FLAGS = "--use_cpu --bf16 false --report_to none --max_steps {steps} --per_device_train_batch_size {batch_size}"
FLAGS += " --learning_rate {learning_rate} --seed {seed} --gradient_checkpointing false"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    pool_of(folder / "data/pool", [(sample, at) for at, sample in enumerate(POOL)], [60] * len(POOL))
    write_samples(folder / "data/benchmark", drawn("benchmark", 3))
    save_checkpoint(folder / "models/target")
    write_json(folder / "models/target.manifest.json", {})
    ids = [sample.id for sample in POOL]
    write_table(folder / "selections/lookahead-50.parquet", selection_table(ids, ids[:4], "left out"))
    trl = environment("trl").with_name("trl")
    command = f"cd {{data}} && HF_HUB_OFFLINE=1 {trl} sft --config sft.yaml --model_name_or_path {{model}} --output_dir"
    settings = ["sft.steps=2", "sft.batch_size=2", "evaluate.max_new_tokens=2", "curate.subsets=[lookahead-50]"]
    set_params(folder / "params.yaml", [*settings, f"sft.command={command} {{out}} {FLAGS}"])
    return folder


def test_trl_trains_an_arm_and_its_model_is_evaluated(workspace):
    made = execute("sft-lookahead-50-B", workspace)
    assert made["metrics"]["samples"] == 4
    before, after = (
        load_file(workspace / f"models/{name}/model.safetensors") for name in ("target", "sft/lookahead-50-B")
    )
    assert any(not torch.equal(weight, before[name]) for name, weight in after.items()), "TRL's training is not here"
    assert execute("evaluate-lookahead-50-B", workspace)["metrics"]["accuracy"] >= 0
