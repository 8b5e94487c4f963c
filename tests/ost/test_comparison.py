"""What trainings of several seeds say together, against scipy's own intervals and counts made here."""

import json
import math

import numpy as np
import pytest
from arm_rows import row
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ost.arms.plan import BASE
from ost.comparison import break_even, summarise
from ost.comparison.summary import MEANS, estimate


def entry(summary: dict, subset: str, protocol: str = "B") -> dict:
    (found,) = [e for e in summary["entries"] if (e["subset"], e["protocol"]) == (subset, protocol)]
    return found


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_intervals_are_scipys(values):
    mean, (low, high) = estimate(values).values()
    assert mean == pytest.approx(np.mean(values))
    if np.std(values) > 1e-9:
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((expected.low, expected.high))
    else:
        assert low == pytest.approx(high, abs=1e-7)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert estimate([0.4]) == {"mean": 0.4, "interval": (None, None)}
    assert estimate([]) is None


def test_differences_are_paired_by_seed():
    """Seeds that differ much, and a gain that does not: only pairing sees it."""
    accuracies = {"lookahead-20": {0: 0.2, 1: 0.5, 2: 0.8}, "full": {2: 0.7, 1: 0.41, 0: 0.1, 9: 0.0}}
    rows = [row(subset, value, seed=seed) for subset, own in accuracies.items() for seed, value in own.items()]
    mean, (low, high) = entry(summarise(rows), "lookahead-20")["against"]["full"].values()
    assert mean == pytest.approx((0.1 + 0.09 + 0.1) / 3)
    assert 0.05 < low < mean < high < 0.15


def test_gap_recovery_is_one_at_the_oracle_and_nought_at_full():
    rows = [
        row(subset, one + seed / 100, seed=seed)
        for subset, one in (("full", 0.4), ("oracle", 0.8), ("one-step-20", 0.7))
        for seed in (0, 1)
    ]
    summary = summarise(rows)
    for subset, expected in (("full", 0.0), ("oracle", 1.0), ("one-step-20", 0.75)):
        assert entry(summary, subset)["gap_recovery"]["mean"] == pytest.approx(expected)
    without_oracle = summarise(rows[:2] + rows[4:])
    assert entry(without_oracle, "one-step-20")["gap_recovery"] is None


def test_full_sft_stands_under_every_protocol():
    rows = [row("full", 0.4, protocol, total_seconds=100) for protocol in "AB"]
    rows += [row("one-step-50", 0.6, "A", total_seconds=40), row("one-step-50", 0.7, total_seconds=80)]
    summary = summarise(rows)
    for protocol, gain, share in (("A", 0.2, 0.4), ("B", 0.3, 0.8)):
        found = entry(summary, "one-step-50", protocol)
        assert found["against"]["full"]["mean"] == pytest.approx(gain)
        assert found["seconds_ratio"]["mean"] == pytest.approx(share)


def test_selection_pays_from_where_its_fixed_cost_is_earned():
    """600 s whatever the pool's size and half of Full-SFT's second a sample: earned at 1,200 samples."""
    sizes = [500, 1000, 4000]
    full = [10 + size for size in sizes]
    assert break_even(sizes, [10 + 600 + size / 2 for size in sizes], full) == pytest.approx(1200)
    assert break_even(sizes, [size / 2 for size in sizes], full) == 0.0, "it pays at once"
    assert break_even(sizes, [1.5 * size for size in sizes], full) is None, "each sample costs more than it saves"


def test_the_front_is_what_nothing_else_beats_on_both():
    points = {
        "full": (0.4, 100),
        "random-20": (0.45, 100),
        "one-step-20": (0.7, 130),
        "one-step-50": (0.65, 150),
        "oracle": (0.9, 1),
    }
    summary = summarise([row(subset, accuracy, total_seconds=cost) for subset, (accuracy, cost) in points.items()])
    assert {e["subset"] for e in summary["entries"] if e["front"]} == {"random-20", "one-step-20"}, (
        "a ceiling is nobody's"
    )


def test_the_smallest_fraction_that_is_not_significantly_worse():
    accuracies = {"one-step-5": (0.3, 0.32, 0.31), "one-step-20": (0.6, 0.7, 0.8), "one-step-50": (0.66, 0.69, 0.81)}
    rows = [row(subset, one, seed=seed) for subset, own in accuracies.items() for seed, one in enumerate(own)]
    rows += [row("full", 0.4, seed=seed) for seed in range(3)]
    assert summarise(rows)["smallest_fraction"] == {"B": {"one-step": 0.2}}
    rows += [row("random-20", 0.5, seed=0), row("random-50", 0.6, seed=0)]
    assert summarise(rows)["smallest_fraction"] == {"B": {"one-step": 0.2}}, "one seed of random proves nothing"


def test_one_seed_tells_of_no_smallest_fraction():
    rows = [row("one-step-5", 0.1), row("one-step-20", 0.7), row("one-step-50", 0.71), row("full", 0.4)]
    assert summarise(rows)["smallest_fraction"] == {"B": None}


def test_entries_are_sorted_and_the_result_is_json():
    rows = [row("random-20", 0.3), row("one-step-20", 0.6), row("one-step-20", 0.9, "A"), row("full", 0.5)]
    rows += [row("full", 0.5, "A"), row(BASE, 0.25), row(BASE, 0.25, "A")]
    summary = summarise(rows)
    order = [(e["protocol"], e["subset"]) for e in summary["entries"]]
    assert order == [("B", "one-step-20"), ("B", "full"), ("B", "random-20"), ("A", "one-step-20"), ("A", "full")]
    assert (summary["seeds"], summary["base"]) == ([0], [0.25])
    assert all(math.isfinite(e[name]) for e in summary["entries"] for name in MEANS)
    json.dumps(summary, allow_nan=False)


def test_purity_is_the_mean_over_seeds_and_none_where_nothing_is_kept():
    rows = [row(subset, 0.5, seed=seed) for subset in ("anchors", "one-step-20") for seed in (0, 1)]
    audits = {
        0: {"wrong_share": 0.5, "purity": {"anchors": None, "one-step-20": 0.6}, "scores": {}},
        1: {"wrong_share": 0.5, "purity": {"anchors": None, "one-step-20": 0.8}, "scores": {}},
    }
    summary = summarise(rows, audits=audits)
    assert entry(summary, "anchors")["purity"] is None and summary["detection"] == []
    assert entry(summary, "one-step-20")["purity"] == pytest.approx(0.7)
    assert [entry(summary, subset)["ours"] for subset in ("anchors", "one-step-20")] == [False, True]


def test_every_score_is_told_apart_from_the_others_seed_by_seed():
    told = {"auroc": 0.7, "flagged": 3, "precision": 0.9, "recall": 0.2}
    scores = {"one-step": told, "lookahead": told | {"auroc": 0.9, "flagged": 0, "precision": None}}
    audits = {0: {"wrong_share": 0.5, "purity": {}, "scores": scores}, 1: None}
    one, two = summarise([row("one-step-20", 0.5)], audits=audits)["detection"]
    assert one == {
        "seed": 0, "score": "one-step", "wrong_share": 0.5, "auroc": 0.7, "flagged": 3, "recall": 0.2,
        "false_discovery_rate": pytest.approx(0.1),
    }  # fmt: skip
    assert (two["score"], two["auroc"], two["false_discovery_rate"]) == ("lookahead", 0.9, 0.0)


def test_by_task_is_the_mean_over_the_seeds_that_know_it():
    rows = [row("full", 0.5, by_task={"sum": 0.4, "product": 0.6}), row("full", 0.5, seed=1, by_task={"sum": 0.8})]
    (found,) = summarise(rows)["entries"]
    assert found["by_task"] == {"product": 0.6, "sum": pytest.approx(0.6)}


def test_what_coincides_is_told_seed_by_seed():
    rows = [row("lookahead-20", 0.5, seed=seed, same_as=same) for seed, same in ((1, "full-B"), (0, None))]
    assert entry(summarise(rows), "lookahead-20")["same_as"] == [None, "full-B"]
