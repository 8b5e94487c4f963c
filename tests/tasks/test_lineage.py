"""Lineage over a small record: two trained subsets, of which one kept the sample, and two generations of one model."""

import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ost.data import Dataset, Facts, Sample, ShardWriter, chat
from ost.data.dataset import write_listing
from ost.errors import WorkspaceError
from tasks.record.lineage import Artifact, chain, find_version, samples_named, uses

SUBSETS = ("full", "random-20", "lookahead-20", "lookahead-50")
KEEPERS = {"full", "lookahead-20", "lookahead-50"}
"""The subsets that kept sample `a`; `b` was kept by none."""


def selection(subset: str) -> bytes:
    ranks = [1 if subset in KEEPERS else None, None, 2 if subset == "random-20" else None]
    reasons = ["left out" if rank is None else "kept" for rank in ranks]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "rank": pa.array(ranks, pa.int32()), "reason": reasons}), buffer)
    return buffer.getvalue()


@pytest.fixture
def record(tracker, made) -> Callable[[str, dict, dict[str, bytes]], dict]:
    """Records a stage that read other stages' outputs, and returns its own outputs with their digests."""
    parent = tracker.open({"commit": "", "dirty": False}, "dvc")

    def note(stage: str, inputs: dict[str, str], outputs: dict[str, bytes]) -> dict[str, str]:
        manifest = made(stage, inputs, outputs)
        tracker.record(manifest, parent)
        return manifest["outputs"]

    return note


@pytest.fixture
def trained(record) -> dict[str, str]:
    """A record from the pool to two models; the outputs of all stages."""
    world = record("world", {}, {"world/pool.parquet": b"world"})
    data = record("ingest", world | {"models/own": "f" * 32}, {"data/pool": b"pool"})
    scores = record("score-lookahead", data, {"scores/lookahead.parquet": b"scores"})
    chosen, models = {}, {}
    for subset in SUBSETS:
        known = scores if subset.startswith("lookahead") else data
        chosen |= record(f"select-{subset}", known, {f"selections/{subset}.parquet": selection(subset)})
    for subset in ("lookahead-20", "random-20"):
        mine = {f"selections/{subset}.parquet": chosen[f"selections/{subset}.parquet"]}
        models |= record(f"sft-{subset}-B", data | mine, {f"models/sft/{subset}-B": subset.encode()})
    return world | data | scores | chosen | models


def walk(artifact: Artifact) -> list[Artifact]:
    return [artifact, *(below for source in artifact.sources for below in walk(source))]


def test_a_models_chain_leads_back_to_the_world_and_the_commit(tracker, trained):
    links = walk(chain(tracker, find_version(tracker, f"{tracker.model_name}@lookahead-20-B")))
    paths = {link.path for link in links}
    assert paths == {
        "models/sft/lookahead-20-B",
        "data/pool",
        "selections/lookahead-20.parquet",
        "scores/lookahead.parquet",
        "world/pool.parquet",
        "models/own",
    }, "the chain misses an artifact, or holds another subset's"
    for link in links:
        if link.path != "models/own":
            assert link.digest == trained[link.path]
            assert link.commit.startswith("c0ffee"), f"{link.path} leads to no commit"


def test_a_users_own_file_ends_the_chain_without_a_run(tracker, trained):
    links = walk(chain(tracker, find_version(tracker, tracker.model_name)))
    (own,) = {id(link): link for link in links if link.path == "models/own"}.values()
    assert (own.run, own.commit, own.sources) == (None, "", [])


def test_a_chain_follows_the_bytes_and_not_the_newest_run(tracker, trained, record):
    """The pool is made anew, with other bytes: the old model still comes from the old one."""
    record("ingest", {"world/pool.parquet": "0" * 32}, {"data/pool": b"another pool"})
    links = walk(chain(tracker, find_version(tracker, tracker.model_name)))
    assert {link.digest for link in links if link.path == "data/pool"} == {trained["data/pool"]}
    assert "world/pool.parquet" in {link.path for link in links}


def test_a_sample_leads_to_exactly_the_models_trained_on_it(tracker, trained):
    found = {use.subset: use for use in uses(tracker, "a")}
    assert set(found) == set(SUBSETS), "a selection that looked at the sample is missing"
    assert {subset for subset, use in found.items() if use.rank} == KEEPERS
    assert [model.tags["ost.run"] for model in found["lookahead-20"].models] == ["lookahead-20-B"]
    assert found["random-20"].models == [], "a model is named whose selection left the sample out"
    assert found["random-20"].reason == "left out"
    assert found["full"].models == [], "no model was trained on this subset"


def test_a_sample_that_no_subset_kept_has_no_models(tracker, trained):
    found = uses(tracker, "b")
    assert len(found) == len(SUBSETS)
    assert not any(use.models for use in found)


def test_a_sample_is_found_by_the_users_own_id(tmp_path):
    with ShardWriter(tmp_path / "data/pool") as writer:
        for place, own in enumerate(['"own-0"', '"own-0"', "7", '"\\u00e9"', '"è"', None]):
            sample = Sample((), chat(f"What is {place}?", "right"), "")
            writer.add(sample, Facts(40, 3, (), "pool.jsonl", place, own))
    write_listing(tmp_path / "data/pool", writer.shards, {})
    ids = Dataset(tmp_path / "data/pool").ids()
    asked = ("own-0", "7", "é", "è", "nobody", "None")
    assert [samples_named(tmp_path, own) for own in asked] == [ids[:2], ids[2:3], ids[3:4], ids[4:5], [], []]
    assert samples_named(tmp_path / "empty", "own-0") == []


def test_an_unknown_sample_has_no_uses(tracker, trained):
    assert uses(tracker, "nobody") == []


def test_a_version_is_found_by_number_by_run_and_as_the_newest(tracker, trained):
    name = tracker.model_name
    assert find_version(tracker, f"{name}/1").tags["ost.run"] == "lookahead-20-B"
    assert find_version(tracker, f"{name}@random-20-B").tags["ost.run"] == "random-20-B"
    assert str(find_version(tracker, name).version) == "2"
    assert find_version(tracker, "a") is None, "a sample's id was taken for a model"
    with pytest.raises(WorkspaceError, match=r"no version full-B .*versions: 1 \(lookahead-20-B\), 2 \(random-20-B\)"):
        find_version(tracker, f"{name}@full-B")


def test_a_runs_name_means_the_model_that_it_left_last(tracker, trained, record):
    """Trained with new settings, then with the old ones again: the name means the old bytes, not the newest number."""
    data = {"data/pool": trained["data/pool"]}
    record("sft-lookahead-20-B", data, {"models/sft/lookahead-20-B": b"new settings"})
    assert str(find_version(tracker, f"{tracker.model_name}@lookahead-20-B").version) == "3"
    record("sft-lookahead-20-B", data, {"models/sft/lookahead-20-B": b"lookahead-20"})
    assert str(find_version(tracker, f"{tracker.model_name}@lookahead-20-B").version) == "1"
