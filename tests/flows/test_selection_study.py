"""The study of selection strategies at a tiny size: what a run leaves, not twice, and how it is summed up."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats
from tiny_workspace import ROOT, TINY

from flows import selection_study
from flows.parameters import set_params


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A study's folder with one seed scored, and two runs done."""
    root = tmp_path_factory.mktemp("study")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    set_params(root / "params.yaml", [*TINY, "warmup.fraction=0.5"])
    assert selection_study._prepare(root, 3) == 3
    for strategy in ("top", "cover"):
        selection_study._run(root, 3, strategy, 0.2, steps=2)
    return root


def test_a_run_leaves_a_line_and_is_not_run_again(root):
    lines = (root / "runs/selection-seed-3/study.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["strategy"], row["fraction"], row["samples"]) for row in rows] == [
        ("top", 0.2, 40),
        ("cover", 0.2, 40),
    ]
    assert all(0 <= row["accuracy"] <= 1 and 0 <= row["purity"] <= 1 for row in rows)
    assert selection_study._finished(root, 3, "top", 0.2, steps=2)
    assert not selection_study._finished(root, 3, "vote", 0.2, steps=2)
    assert not selection_study._finished(root, 3, "top", 0.2), "another number of steps is another run"


def test_both_warm_ups_are_scored_on_the_same_data(root):
    found = selection_study.summarise(root, [3], steps=2)["detection"]
    assert [(one["seed"], one["warmup"]) for one in found] == [(3, 0.05), (3, 0.25)]
    assert all(0 <= one["auroc"] <= 1 and 0 <= one["false_discovery_rate"] <= 1 for one in found)
    data = [root / f"runs/selection-seed-3{suffix}/data/pool.parquet" for suffix in ("", "-w25")]
    assert data[0].read_bytes() == data[1].read_bytes()


def test_gains_are_paired_by_seed_with_a_t_interval():
    gains = np.array([0.02, 0.05, 0.03])
    rows = [
        {"seed": seed, "strategy": name, "fraction": 0.2, "accuracy": 0.1 * seed + more, "purity": 0.5}
        for seed, gain in enumerate(gains)
        for name, more in (("top", 0.0), ("cover", gain))
    ]
    found = selection_study._summary(rows, 0.2, "cover")
    expected = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert found["gain"] == pytest.approx(gains.mean())
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert selection_study._summary(rows, 0.2, "top")["gain"] == 0
