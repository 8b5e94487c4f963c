"""Scores as stages: by utility as the library gives them, and reference models trained as the settings say."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from specimens import copy_of, drawn

import ost
from flows.parameters import set_params
from ost.baselines.finevision import AXES
from ost.baselines.visual_gain import visual_gain
from ost.data import Dataset, Facts, ShardWriter, chat, content_digest, write_samples
from ost.data.dataset import write_listing
from ost.errors import DataError, ModelError
from ost.execution.forward import losses_of
from ost.models import add_adapter, load_checkpoint
from ost.selection import kept_ids
from ost.store import read_table
from ost.training import Recipe, train
from tasks.settings import load_params
from tasks.stages import score
from tasks.stages.run import execute

ONE_STEP = "curate.subsets=[lookahead-20, one-step-20]"
SETTINGS = ["sft.steps=40", "sft.batch_size=8", "warmup.fraction=0.1", "score.checks=0", "score.shard_size=20"]
SETTINGS += ["score.lookahead.most_steps=4", "curate.keep=false"]


@pytest.fixture
def workspace(folder, proxy) -> Path:
    """A folder as `ingest`, `base` and `warmup` leave it."""
    write_samples(folder / "data/pool", drawn("pool", 32, 1))
    write_samples(folder / "data/anchors", drawn("anchors", 12))
    proxy.save(folder / "models/proxy")
    set_params(folder / "params.yaml", [*SETTINGS, "holdout.epochs=3"])
    execute("warmup", folder)
    return folder


def samples(workspace: Path, name: str) -> list[ost.Sample]:
    return list(Dataset(workspace / f"data/{name}"))


def scored(workspace: Path, **changes) -> pa.Table:
    """What the library says of the workspace's pool."""
    warm = load_checkpoint(workspace / "models/proxy-warm", base=workspace / "models/proxy")
    settings = load_params(workspace / "params.yaml").score
    return ost.score(samples(workspace, "pool"), samples(workspace, "anchors"), warm, settings, **changes).table


def test_both_scores_stand_side_by_side_whatever_the_pipeline_scores_by(workspace):
    expected = {"one-step": scored(workspace, method="gradient"), "lookahead": scored(workspace, method="lookahead")}
    flops: dict[str, list[float]] = {name: [] for name in expected}
    for method in ("gradient", "lookahead"):
        set_params(workspace / "params.yaml", [f"score.method={method}", ONE_STEP])
        for name, table in expected.items():
            manifest = execute(f"score-{name}", workspace)
            assert read_table(workspace / f"scores/{name}.parquet").equals(table)
            assert {"models/proxy", "models/proxy-warm", "data/anchors"} <= set(manifest["inputs"])
            assert {"toxic_share", "anchor_loss"} <= set(manifest["metrics"])
            flops[name].append(manifest["flops"])
    assert all(first == second > 0 for first, second in flops.values()), "a second run did not count what it reused"


def test_one_step_keeps_a_method_that_takes_one(workspace):
    set_params(workspace / "params.yaml", ["score.method=transposed", ONE_STEP])
    execute("score-one-step", workspace)
    assert read_table(workspace / "scores/one-step.parquet").equals(scored(workspace, method="transposed"))


def test_lookahead_does_without_what_it_cannot_tell(workspace):
    """Utilities by task are something that one step knows."""
    set_params(workspace / "params.yaml", ["score.method=gradient", "score.detail=groups", ONE_STEP])
    execute("score-lookahead", workspace)
    found = read_table(workspace / "scores/lookahead.parquet")
    assert found.equals(scored(workspace, method="lookahead", detail=None))


def test_the_pipelines_walk_starts_from_the_base(workspace):
    found = {}
    for start in ("auto", "base", "warm"):
        set_params(workspace / "params.yaml", [f"score.lookahead.start={start}"])
        execute("score-lookahead", workspace)
        found[start] = read_table(workspace / "scores/lookahead.parquet")["utility"]
    assert found["auto"].equals(found["base"]) and not found["auto"].equals(found["warm"])


@pytest.mark.parametrize(("name", "origin"), [("color", "proxy-warm"), ("rho", "proxy")])
def test_a_reference_model_passes_over_the_anchors_as_often_as_it_is_told(name, origin, workspace):
    """Twelve anchors are two batches of eight, so three epochs are six steps; it is held against the warm proxy."""
    manifest = execute(f"score-{name}", workspace)
    pool, rate = samples(workspace, "pool"), load_params(workspace / "params.yaml").warmup.learning_rate
    reference = copy_of(load_checkpoint(workspace / f"models/{origin}"))
    train(reference, samples(workspace, "anchors"), Recipe(steps=6, batch_size=8, learning_rate=rate))
    gained = losses_of(pool, load_checkpoint(workspace / "models/proxy-warm")) - losses_of(pool, reference)
    found = read_table(workspace / f"scores/{name}.parquet")
    assert found["id"].to_pylist() == [sample.id for sample in pool]
    np.testing.assert_allclose(found["score"].to_numpy(), gained, atol=1e-5)
    assert math.isclose(manifest["metrics"]["reducible"], gained.mean(), abs_tol=1e-5) and manifest["flops"] > 0


def test_the_reference_of_an_adapters_arm_is_an_adapter(workspace):
    set_params(workspace / "params.yaml", ["warmup.lora_rank=2", "holdout.epochs=1"])
    execute("warmup", workspace)
    found = {}
    for name in ("color", "rho"):
        execute(f"score-{name}", workspace)
        found[name] = read_table(workspace / f"scores/{name}.parquet")["score"].to_numpy()
    assert all(np.isfinite(scores).all() and np.ptp(scores) > 0 for scores in found.values())


def with_ratings(folder: Path, ratings: list[dict[str, float]]) -> list[str]:
    """Write a pool in shards as `ingest` does, whose samples came with these ratings; returns its ids."""
    pool = drawn("pool", len(ratings))
    with ShardWriter(folder / "data/pool") as writer:
        for place, (sample, own) in enumerate(zip(pool, ratings, strict=True)):
            writer.add(sample, Facts(9, 3, ((32, 32),), "train.parquet", place, ratings=own))
    write_listing(folder / "data/pool", writer.shards, {})
    return [sample.id for sample in pool]


def test_what_the_ratings_of_a_pool_keep(folder):
    """A sample is as good as its worst axis; of equal ones the higher mean is better."""
    middling, uneven, best = dict.fromkeys(AXES, 3), dict.fromkeys(AXES, 5) | {"formatting": 2}, dict.fromkeys(AXES, 4)
    text_only = {"relevance": 3, "formatting": 4}
    ids = with_ratings(folder, [middling, uneven, {}, best, text_only, {}])
    manifest = execute("score-rated", folder)
    assert manifest["metrics"] == pytest.approx({"rated": 4 / 6, "least": 3.0}) and manifest["flops"] == 0
    assert manifest["warnings"] == ["2 of 6 samples came without ratings; `rated` keeps none of them"]
    assert manifest["datasets"] == {"pool": content_digest(ids)}
    for share, expected in (("17", [3]), ("33", [3, 4]), ("50", [3, 4, 0]), ("100", [3, 4, 0, 1])):
        execute(f"select-rated-{share}", folder)
        table = read_table(folder / f"selections/rated-{share}.parquet")
        assert kept_ids(table) == [ids[place] for place in expected]
        assert {table["reason"][place].as_py() for place in (2, 5)} == {"it came without ratings"}


def test_finevisions_own_files_can_be_chosen_from(folder, proxy):
    """Through ingestion, in its form: of each axis the lowest of a conversation's turns, or null."""
    pool, rows = drawn("pool", 4), []
    for sample, (worst, other) in zip(pool, [(3, 5), (5, 5), (1, 5), (None, None)], strict=True):
        turns = [{"user": sample.question, "assistant": sample.answer}, {"user": "Sure?", "assistant": "Yes."}]
        row = {"images": [{"bytes": image, "path": None} for image in sample.images], "texts": turns, "source": "hand"}
        row |= {f"{axis}_ratings": [other, other] for axis in AXES} | {f"{axis}_min": other for axis in AXES}
        rows.append(row | {"visual_dependency_ratings": [worst, other], "visual_dependency_min": worst})
    pq.write_table(pa.Table.from_pylist(rows), folder / "finevision.parquet")
    for name in ("anchors", "benchmark"):
        write_samples(folder / f"{name}.parquet", drawn(name, 2))
    for role in ("target", "proxy"):
        proxy.save(folder / f"models/{role}")
    sources = ["data.pool=finevision.parquet", "data.anchors=anchors.parquet", "data.benchmark=benchmark.parquet"]
    set_params(folder / "params.yaml", [*sources, "data.truth=null"])
    execute("ingest", folder)
    assert execute("score-rated", folder)["metrics"] == pytest.approx({"rated": 0.75, "least": 3.0})
    execute("select-rated-50", folder)
    kept = Dataset(folder / "data/pool").take(kept_ids(read_table(folder / "selections/rated-50.parquet")))
    assert [sample.images for sample in kept] == [pool[1].images, pool[0].images]


def test_a_pool_without_ratings_says_what_the_arm_needs(folder):
    with_ratings(folder, [{}] * 3)
    with pytest.raises(DataError, match=r"none of the 3 samples of the pool came with one.*columns such as relevance_"):
        execute("score-rated", folder)
    assert not list(folder.rglob("scores/*"))


def test_what_images_take_off_is_a_column_of_every_utility_table_and_counted(workspace):
    """It re-scores no row: the shards of the run before are taken over."""
    set_params(workspace / "params.yaml", ["curate.keep=true", ONE_STEP])
    plain = execute("score-lookahead", workspace)
    before = read_table(workspace / "scores/lookahead.parquet")
    set_params(workspace / "params.yaml", ["score.visual_gain=true"])
    warm, pool = load_checkpoint(workspace / "models/proxy-warm"), samples(workspace, "pool")
    expected = visual_gain(pool, warm)
    for name in ("lookahead", "one-step"):
        manifest = execute(f"score-{name}", workspace)
        table = read_table(workspace / f"scores/{name}.parquet")
        np.testing.assert_array_equal(table["visual_gain"].to_numpy(), expected.gain)
        assert manifest["metrics"]["visual_gain"] == pytest.approx(expected.gain.mean())
        if name == "lookahead":
            assert manifest["metrics"]["scored"] == 0 and table.drop_columns("visual_gain").equals(before)
            assert table.schema.metadata == before.schema.metadata
            assert manifest["flops"] == pytest.approx(plain["flops"] + expected.cost.flops)
    execute("select-lookahead-20", workspace)


def test_what_images_take_off_is_refused_of_a_pool_without_any_before_it_is_scored(workspace, monkeypatch):
    (workspace / "data/pool").rename(workspace / "data/seen")
    write_samples(workspace / "data/pool", [ost.Sample((), chat(f"{at}?", "1", images=0)) for at in range(9)])
    set_params(workspace / "params.yaml", ["score.visual_gain=true"])
    monkeypatch.setattr(score, "score_file", lambda *args: pytest.fail("scored first"))
    with pytest.raises(DataError, match=r"no sample of the pool has an image, .* set score\.visual_gain to false"):
        execute("score-lookahead", workspace)


@pytest.mark.parametrize("name", ["tacs", "tov", "in-context", "visual-gain"])
def test_a_rival_scores_as_a_stage(name, workspace):
    """What the library gives for it is tested in tests/ost; here it is told the workspace's settings."""
    set_params(workspace / "params.yaml", ["tacs.most_steps=3", "in_context.demonstrations=2"])
    first = execute(f"score-{name}", workspace)
    table = read_table(workspace / f"scores/{name}.parquet")
    assert table["id"].to_pylist() == [sample.id for sample in samples(workspace, "pool")]
    assert np.isfinite(table["score"].to_numpy()).all() and first["flops"] > 0 and first["seconds"] > 0
    assert bool(first["warnings"]) == (first["metrics"].get("steps") == 3), "a path that ends at its longest is told"
    assert ("models/proxy-warm" in first["inputs"]) == (name != "tacs"), "TACS walks from what never saw the pool"
    execute(f"score-{name}", workspace)
    assert read_table(workspace / f"scores/{name}.parquet").equals(table)
    execute(f"select-{name}-25", workspace)
    assert len(kept_ids(read_table(workspace / f"selections/{name}-25.parquet"))) == 8


def test_an_adapter_is_no_base_for_tacs(workspace):
    adapted = load_checkpoint(workspace / "models/proxy")
    add_adapter(adapted.model, 2, 0)
    adapted.model.name_or_path = str(workspace / "models/proxy-warm")
    adapted.save(workspace / "models/adapted")
    (workspace / "models/proxy").rename(workspace / "models/whole")
    (workspace / "models/adapted").rename(workspace / "models/proxy")
    with pytest.raises(ModelError, match="an adapter already: merge it into its base, or leave the arm `tacs` out"):
        execute("score-tacs", workspace)
