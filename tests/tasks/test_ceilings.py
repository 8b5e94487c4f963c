"""Floors and ceilings: the arms that are given the anchors alone or besides, and those that know the truth."""

import pyarrow as pa
import pytest
from specimens import drawn

import tasks.stages.sft
from flows.parameters import set_params
from ost.arms.plan import Subset, Training
from ost.data import content_digest, write_samples
from ost.errors import DataError, WorkspaceError
from ost.selection import kept_ids
from ost.store import read_json, read_table, write_json, write_table
from ost.training import train
from tasks.pipeline import manifest_path
from tasks.plan import Plan
from tasks.settings import load_params
from tasks.stages.harm import audit_subsets
from tasks.stages.rows import choosing_cost, rows_of
from tasks.stages.run import execute


@pytest.fixture
def truth(folder):
    """A pool of six, and a function that says of some ids whether they are wrong."""
    pool = drawn("pool", 6)
    write_samples(folder / "data/pool", pool)

    def tell(wrong: dict[str, bool]) -> list[str]:
        table = pa.table({"id": list(wrong), "wrong": list(wrong.values())})
        write_table(folder / "data/truth.parquet", table)
        return [sample.id for sample in pool]

    return tell


def test_a_ceiling_keeps_what_is_right_and_was_let_through(folder, truth):
    ids = truth({})
    truth({name: index % 2 == 0 for index, name in enumerate(ids)} | {"quarantined": False})
    for arm, count in (("oracle", 3), ("clean-50", 3), ("clean-20", 1)):
        assert "data/truth.parquet" in execute(f"select-{arm}", folder)["inputs"]
        kept = kept_ids(read_table(folder / f"selections/{arm}.parquet"))
        assert len(kept) == count and set(kept) <= set(ids[1::2])


def test_a_truth_that_leaves_samples_out_is_refused(folder, truth):
    ids = truth({})
    truth(dict.fromkeys(ids[:4], False))
    for arm in ("oracle", "clean-50"):
        with pytest.raises(DataError, match=r"says nothing of 2 of 6 samples, .* data.truth=null"):
            execute(f"select-{arm}", folder)


@pytest.fixture
def ready(folder, proxy, monkeypatch):
    """A folder with a pool of 20 and 4 anchors, and a function that runs a trial: its row, and the ids trained on."""
    write_samples(folder / "data/pool", drawn("pool", 20))
    write_samples(folder / "data/anchors", drawn("anchors", 4))
    write_samples(folder / "data/benchmark", drawn("benchmark", 2))
    proxy.save(folder / "models/target")
    set_params(folder / "params.yaml", ["sft.steps=10", "sft.batch_size=4", "evaluate.max_new_tokens=2"])
    seen: list[list[str]] = []

    def spied(checkpoint, samples, *rest, **options):
        seen.append([sample.id for sample in samples])
        return train(checkpoint, samples, *rest, **options)

    monkeypatch.setattr(tasks.stages.sft, "train", spied)

    def run(key: str) -> tuple[dict, list[str]]:
        one = Training.parse(key)
        execute(f"select-{one.subset.key}", folder)
        manifest = execute(f"trial-{key}", folder)
        assert manifest["datasets"][one.subset.key] == content_digest(seen[-1])
        assert ("data/anchors" in manifest["inputs"]) == one.subset.arm.with_anchors
        return row_of(folder, key), seen[-1]

    return run


def row_of(folder, key: str) -> dict:
    (row,) = rows_of(folder, Plan(load_params(folder / "params.yaml")), [Training.parse(key)])
    return row


def ids_of(name: str, count: int) -> set[str]:
    return {sample.id for sample in drawn(name, count)}


def test_the_floor_trains_on_the_anchors_and_nothing_else(folder, ready):
    """Protocol A gives four samples, held against a pool of twenty, a fifth of the steps."""
    row, seen = ready("anchors-A")
    assert set(seen) == ids_of("anchors", 4) and len(seen) == 4
    assert (row["samples"], row["fraction"], row["steps"], row["select_flops"]) == (4, 0.2, 2, 0)
    assert ready("anchors-B")[0]["steps"] == 10
    table = read_table(folder / "selections/anchors.parquet")
    assert len(table) == 20 and set(table["reason"].to_pylist()) == {"only the anchors are trained on"}


def test_a_training_that_is_kept_stands_beside_what_choosing_takes_now(folder, ready):
    row, _ = ready("random-30-A")
    path = folder / "selections/random-30.manifest.json"
    write_json(path, read_json(path) | {"seconds": 7.0, "flops": 9e9})
    now = row_of(folder, "random-30-A")
    assert (now["select_seconds"], now["select_flops"]) == (7.0, 9e9)
    assert (now["total_seconds"], now["total_flops"]) == (7.0 + row["train_seconds"], 9e9 + row["train_flops"])
    priced = {f"{name}_{unit}" for name in ("select", "total") for unit in ("seconds", "flops")}
    assert {name: now[name] for name in now.keys() - priced} == {name: row[name] for name in row.keys() - priced}


def test_the_anchors_come_on_top_of_a_random_draw(folder, ready):
    plain, drawn_alone = ready("random-30-A")
    row, seen = ready("random-anchors-30-A")
    assert set(seen) == set(drawn_alone) | ids_of("anchors", 4), "the same draw, and the anchors"
    assert (plain["samples"], row["samples"]) == (6, 10) and plain["fraction"] == row["fraction"] == 0.3
    assert (plain["steps"], row["steps"]) == (3, 5)
    (folder / "data/anchors").unlink()
    with pytest.raises(WorkspaceError, match=r"needs data/anchors"):
        ready("random-anchors-30-A")


def test_what_keeps_nothing_of_the_pool_has_no_purity(folder, ready):
    truth = {name: place % 2 == 0 for place, name in enumerate(sorted(ids_of("pool", 20)))}
    write_table(folder / "data/truth.parquet", pa.table({"id": list(truth), "wrong": list(truth.values())}))
    for key in ("anchors", "random-100"):
        execute(f"select-{key}", folder)
    found = audit_subsets(folder, {Subset.parse("anchors"), Subset.parse("random-100")})
    assert found == {"wrong_share": 0.5, "purity": {"anchors": None, "random-100": 0.5}, "scores": {}}


def test_each_score_table_is_audited_by_what_it_ranks_by(folder, truth):
    """Of two wrong samples the absolute score puts one first, the relative one both last."""
    ids = truth({})
    truth(dict.fromkeys(ids[:2], True) | dict.fromkeys(ids[2:], False))
    rows = {"id": ids, "toxic": [True, False, True, False, False, False], "task": ["sum"] * 6}
    table = pa.table(rows | {"utility": [-1.0, 9.0, 1.0, 2.0, 3.0, 4.0]})
    write_table(folder / "scores/one-step.parquet", table)
    relative = table.append_column("utility_relative", pa.array([-1.0, -2.0, 1.0, 2.0, 3.0, 4.0]))
    write_table(folder / "scores/lookahead.parquet", relative)
    subsets = [Subset.parse("one-step-top-50"), Subset.parse("lookahead-top-50")]
    for subset in subsets:
        execute(f"select-{subset.key}", folder)
    found = audit_subsets(folder, subsets)["scores"]
    assert {name: one["auroc"] for name, one in found.items()} == {"one-step": 0.5, "lookahead": 1.0}
    assert all((one["flagged"], one["precision"], one["recall"]) == (2, 0.5, 0.5) for one in found.values())
    assert audit_subsets(folder, subsets[1:])["scores"].keys() == {"lookahead"}, "the other may be of another pool"


@pytest.mark.parametrize(
    ("arm", "stages"),
    [
        ("random-20", ["select-random-20"]),
        ("oracle", ["select-oracle"]),
        ("judge", ["select-judge", "score-judge"]),
        ("less-20", ["select-less-20", "score-less"]),
        ("rho-20", ["select-rho-20", "score-rho", "warmup"]),
        ("lookahead-20", ["select-lookahead-20", "score-lookahead", "warmup"]),
    ],
)
def test_choosing_costs_what_all_its_stages_do(arm, stages, folder):
    for place, stage in enumerate(stages):
        write_json(folder / manifest_path(stage), {"seconds": 10.0**place, "flops": 2.0 * 10**place})
    cost = choosing_cost(folder, Subset.parse(arm))
    total = sum(10**place for place in range(len(stages)))
    assert (cost.seconds, cost.flops) == (total, 2 * total)
