"""Ratings as stages: both scores as the library gives them, and reference models trained as the settings say."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from specimens import copy_of, drawn

import ost
from flows.parameters import set_params
from ost.config import load_params
from ost.data import write_samples
from ost.models import load_checkpoint
from ost.scoring.losses import losses_of
from ost.store import read_table
from ost.training import Recipe, train
from tasks.stages import execute

SETTINGS = ["sft.steps=40", "sft.batch_size=8", "warmup.fraction=0.1", "score.checks=0", "score.shard_size=20"]
SETTINGS += ["score.lookahead.most_steps=4"]


@pytest.fixture
def workspace(folder, proxy) -> Path:
    """A folder as `ingest`, `base` and `warmup` leave it."""
    write_samples(folder / "data/pool.parquet", drawn("pool", 32, 1))
    write_samples(folder / "data/anchors.parquet", drawn("anchors", 12))
    proxy.save(folder / "models/proxy")
    set_params(folder / "params.yaml", [*SETTINGS, "holdout.epochs=3"])
    execute("warmup", folder)
    return folder


def samples(workspace: Path, name: str) -> list[ost.Sample]:
    return list(ost.read_samples(workspace / f"data/{name}.parquet"))


def scored(workspace: Path, **changes) -> pa.Table:
    """What the library says of the workspace's pool."""
    warm = load_checkpoint(workspace / "models/proxy-warm", base=workspace / "models/proxy")
    settings = load_params(workspace / "params.yaml").score
    return ost.score(samples(workspace, "pool"), samples(workspace, "anchors"), warm, settings, **changes).table


def test_both_scores_stand_side_by_side_whatever_the_pipeline_scores_by(workspace):
    expected = {"one-step": scored(workspace, method="gradient"), "lookahead": scored(workspace, method="lookahead")}
    flops: dict[str, list[float]] = {name: [] for name in expected}
    for method in ("gradient", "lookahead"):
        set_params(workspace / "params.yaml", [f"score.method={method}"])
        for name, table in expected.items():
            manifest = execute(f"rate-{name}", workspace)
            assert read_table(workspace / f"ratings/{name}.parquet").equals(table)
            assert {"models/proxy", "models/proxy-warm", "data/anchors.parquet"} <= set(manifest["inputs"])
            assert {"toxic_share", "anchor_loss"} <= set(manifest["metrics"])
            flops[name].append(manifest["flops"])
    assert all(first == second > 0 for first, second in flops.values()), "a second run did not count what it reused"


def test_one_step_keeps_a_method_that_takes_one(workspace):
    set_params(workspace / "params.yaml", ["score.method=transposed"])
    execute("rate-one-step", workspace)
    assert read_table(workspace / "ratings/one-step.parquet").equals(scored(workspace, method="transposed"))


def test_lookahead_does_without_what_it_cannot_tell(workspace):
    """Utilities by task are something that one step knows."""
    set_params(workspace / "params.yaml", ["score.method=gradient", "score.detail=groups"])
    execute("rate-lookahead", workspace)
    found = read_table(workspace / "ratings/lookahead.parquet")
    assert found.equals(scored(workspace, method="lookahead", detail=None))


def test_the_pipelines_walk_starts_from_the_base(workspace):
    found = {}
    for start in ("auto", "base", "warm"):
        set_params(workspace / "params.yaml", [f"score.lookahead.start={start}"])
        execute("rate-lookahead", workspace)
        found[start] = read_table(workspace / "ratings/lookahead.parquet")["utility"]
    assert found["auto"].equals(found["base"]) and not found["auto"].equals(found["warm"])


@pytest.mark.parametrize(("name", "origin"), [("color", "proxy-warm"), ("rho", "proxy")])
def test_a_reference_model_passes_over_the_anchors_as_often_as_it_is_told(name, origin, workspace):
    """Twelve anchors are two batches of eight, so three epochs are six steps; it is held against the warm proxy."""
    manifest = execute(f"rate-{name}", workspace)
    pool, rate = samples(workspace, "pool"), load_params(workspace / "params.yaml").warmup.learning_rate
    reference = copy_of(load_checkpoint(workspace / f"models/{origin}"))
    train(reference, samples(workspace, "anchors"), Recipe(steps=6, batch_size=8, learning_rate=rate))
    gained = losses_of(pool, load_checkpoint(workspace / "models/proxy-warm")) - losses_of(pool, reference)
    found = read_table(workspace / f"ratings/{name}.parquet")
    assert found["id"].to_pylist() == [sample.id for sample in pool]
    np.testing.assert_allclose(found["score"].to_numpy(), gained, atol=1e-5)
    assert math.isclose(manifest["metrics"]["reducible"], gained.mean(), abs_tol=1e-5) and manifest["flops"] > 0


def test_the_reference_of_an_adapters_arm_is_an_adapter(workspace):
    set_params(workspace / "params.yaml", ["warmup.lora_rank=2", "holdout.epochs=1"])
    execute("warmup", workspace)
    found = {}
    for name in ("color", "rho"):
        execute(f"rate-{name}", workspace)
        found[name] = read_table(workspace / f"ratings/{name}.parquet")["score"].to_numpy()
    assert all(np.isfinite(scores).all() and np.ptp(scores) > 0 for scores in found.values())
