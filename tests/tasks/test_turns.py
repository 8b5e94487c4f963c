"""Turns in a workspace: what stages read and write of them, and which turns a training learns."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.parameters import set_params
from ost.data import Dataset
from ost.errors import ConfigError
from ost.selection import kept_ids, masks_of
from ost.store import read_table, write_table
from tasks.coinciding import coinciding
from tasks.pipeline import stages_of
from tasks.plan import Plan
from tasks.settings import Params, load_params, parse_params
from tasks.stages.context import Context
from tasks.stages.harm import audit_subsets
from tasks.stages.run import execute
from tasks.stages.sft import Setup

ROOT = Path(__file__).parents[2]
SMALL = ["base.target_steps=2", "base.proxy_steps=1", "base.batch_size=2"]
WORLD = ["world.name=multi-turn", "world.pool=60", "world.anchors=10", "world.benchmark=8", "world.errors=rules"]
TURNS = "scores/lookahead-turns.parquet"


def params_of(**sections) -> Params:
    return parse_params(sections)


def stages(folder, **sections) -> dict:
    return {stage.name: stage for stage in stages_of(folder, Plan(params_of(**sections)))}


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A workspace whose scores know the truth by turn, up to what is selected by it."""
    folder = tmp_path_factory.mktemp("talks")
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    subsets = "curate.subsets=[full, random-50, lookahead-50, lookahead-top-50]"
    set_params(folder / "params.yaml", [*SMALL, *WORLD, subsets, "select.unit=turn", "select.strategy=top"])
    for stage in ("world", "base-target", "base-proxy", "ingest"):
        execute(stage, folder)
    truth = read_table(folder / "data/truth-turns.parquet")
    rng = np.random.default_rng(0)
    value = rng.normal(size=len(truth)) + 6 - 12 * truth["wrong"].to_numpy(zero_copy_only=False)
    turns = truth.select(["id", "turn"]).append_column("utility", pa.array(value))
    own = turns.group_by("id", use_threads=False).aggregate([("utility", "mean")])
    scores = {"id": own["id"], "utility": own["utility_mean"], "toxic": [at % 10 == 9 for at in range(len(own))]}
    write_table(
        folder / "scores/lookahead.parquet", pa.table(scores | {"task": ["talk"] * len(own), "loss": value[:60]})
    )
    write_table(folder / TURNS, turns)
    return folder


@pytest.fixture
def talks(scored, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(scored, tmp_path / "talks"))


@pytest.mark.parametrize(
    ("method", "known"), [("lookahead", False), ("transposed", True), ("gradient", False), ("exact", False)]
)
def test_a_table_of_turns_is_declared_where_the_method_tells_turns(method, known, folder):
    found = stages(folder, score={"method": method}, curate={"subsets": ["one-step-20", "lookahead-20"]})
    assert ("scores/one-step-turns.parquet" in found["score-one-step"].writes) == known
    assert TURNS in found["score-lookahead"].writes


def test_turns_are_read_where_they_are_selected_by_and_nowhere_else(folder):
    for unit in ("sample", "turn"):
        found = stages(folder, select={"unit": unit}, curate={"subsets": ["random-20", "lookahead-20"]})
        assert (TURNS in found["select-lookahead-20"].reads) == (unit == "turn")
        assert TURNS not in found["select-random-20"].reads


def test_scores_that_do_not_tell_turns_are_refused_before_anything_is_run():
    asked = {"select": {"unit": "turn"}, "curate": {"subsets": ["one-step-20"]}}
    for method in ("gradient", "exact"):
        with pytest.raises(ConfigError, match="the scores one-step do not tell turns apart: name arms of lookahead"):
            Plan(params_of(**asked, score={"method": method})).check()
    Plan(params_of(**asked, score={"method": "transposed"})).check()


def test_the_truth_by_turn_is_passed_on_where_it_is_known(folder):
    both = "data/truth-turns.parquet"
    assert both not in stages(folder)["ingest"].writes
    assert both in stages(folder, world={"name": "multi-turn"})["ingest"].writes
    own = {"pool": "p.jsonl", "anchors": "a.jsonl", "benchmark": "b.jsonl", "truth": "mine.parquet"}
    assert both not in stages(folder, data=own, world={"name": "multi-turn"})["ingest"].writes
    (folder / "mine-turns.parquet").touch()
    found = stages(folder, data=own)["ingest"]
    assert both in found.writes and "mine-turns.parquet" in found.reads


def test_a_training_learns_what_is_not_masked(talks):
    manifest = execute("select-lookahead-50", talks)
    stage = next(
        one for one in stages_of(talks, Plan(load_params(talks / "params.yaml"))) if one.name == manifest["stage"]
    )
    assert set(manifest["inputs"]) == set(stage.reads)
    table = read_table(talks / "selections/lookahead-50.parquet")
    masks, pool = masks_of(table), Dataset(talks / "data/pool")
    assert masks and manifest["metrics"]["masked_turns"] == sum(map(len, masks.values()))
    setup = setup_of(talks, "lookahead-50-B")
    for before, after in zip(pool.take(kept_ids(table)), setup.samples, strict=True):
        assert set(before.learned) - set(after.learned) == set(masks.get(before.id, ()))
    truth = read_table(talks / "data/truth-turns.parquet").to_pylist()
    wrong = {(row["id"], row["turn"]) for row in truth if row["wrong"]}
    assert {(name, at) for name, own in masks.items() for at in own} <= wrong
    assert not any((sample.id, at) in wrong for sample in setup.samples for at in sample.learned)
    subset = next(one for one in Plan(load_params(talks / "params.yaml")).subsets if one.key == "lookahead-50")
    by_turn = audit_subsets(talks, [subset])["turns"]
    assert by_turn["purity"] == {"lookahead-50": 1.0} and by_turn["masked_wrong"] == {"lookahead-50": 1.0}
    assert by_turn["auroc"]["lookahead"] > 0.99


def setup_of(folder, key: str) -> Setup:
    return Setup.of(Context(folder, f"sft-{key}", load_params(folder / "params.yaml")))


def test_the_same_samples_with_other_masks_are_another_training(talks):
    for key in ("lookahead-50", "lookahead-top-50"):
        execute(f"select-{key}", talks)
    params = load_params(talks / "params.yaml")
    assert coinciding(talks, params, "lookahead-top-50-B") == "lookahead-50-B"
    first, same = setup_of(talks, "lookahead-50-B"), setup_of(talks, "lookahead-top-50-B")
    assert first.fingerprint == same.fingerprint
    file = talks / "selections/lookahead-top-50.parquet"
    table = read_table(file).drop_columns("masked")
    write_table(file, table)
    assert coinciding(talks, params, "lookahead-top-50-B") is None, "a model that learned other turns is passed on"
    other = setup_of(talks, "lookahead-top-50-B")
    assert other.samples.ids() == first.samples.ids() and other.fingerprint != first.fingerprint
    assert set(other.digests.values()) != set(first.digests.values())


def test_without_masks_a_selection_and_its_training_are_as_by_sample(talks):
    execute("select-random-50", talks)
    assert read_table(talks / "selections/random-50.parquet").column_names == ["id", "rank", "reason"]
    setup = setup_of(talks, "random-50-B")
    assert setup.contents == setup.samples.ids()
    set_params(talks / "params.yaml", ["select.unit=sample"])
    execute("select-lookahead-50", talks)
    assert read_table(talks / "selections/lookahead-50.parquet").column_names == ["id", "rank", "reason"]
