"""Arms, and what their results say together, against scipy's own intervals and counts made here."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ost.baselines.finevision import AXES, rated
from ost.comparison import ARMS, RATINGS, SCORES, Subset, Trial, break_even, plan, summarise
from ost.comparison.summary import mean_interval, paired
from ost.config import Compare, Params
from ost.data import FEATURES
from ost.errors import ConfigError, DataError
from ost.selection import kept_ids

COSTS = ("select_seconds", "train_seconds", "total_seconds", "select_flops", "train_flops", "total_flops")


def row(subset: str, seed: int, accuracy: float, protocol: str = "B", seconds: float = 10.0) -> dict:
    known = Subset.parse(subset)
    costs = dict.fromkeys(COSTS, seconds)
    return {
        "arm": known.arm, "subset": subset, "fraction": known.fraction, "protocol": protocol, "seed": seed,
        "accuracy": accuracy, **costs,
    }  # fmt: skip


def entry(summary: dict, subset: str, protocol: str = "B") -> dict:
    (found,) = [e for e in summary["entries"] if (e["subset"], e["protocol"]) == (subset, protocol)]
    return found


# --- statistics -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_intervals_are_scipys(values):
    mean, (low, high) = mean_interval(values)
    assert mean == pytest.approx(np.mean(values))
    if np.std(values) > 1e-9:
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((expected.low, expected.high))
    else:
        assert low == pytest.approx(high, abs=1e-7)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert mean_interval([0.4]) == (0.4, (None, None))
    assert mean_interval([]) == (None, (None, None))


def test_differences_are_paired_by_seed():
    """Seeds that differ much, and a gain that does not: only pairing sees it."""
    own, other = {0: 0.2, 1: 0.5, 2: 0.8}, {2: 0.7, 1: 0.41, 0: 0.1, 9: 0.0}
    mean, (low, high) = paired(own, other)
    assert mean == pytest.approx((0.1 + 0.09 + 0.1) / 3)
    assert 0.05 < low < mean < high < 0.15


def test_gap_recovery_is_one_at_the_oracle_and_nought_at_full():
    rows = [
        row(s, seed, a + seed / 100) for s, a in (("full", 0.4), ("oracle", 0.8), ("ost-20", 0.7)) for seed in (0, 1)
    ]
    summary = summarise(rows)
    for subset, expected in (("full", 0.0), ("oracle", 1.0), ("ost-20", 0.75)):
        assert entry(summary, subset)["gap_recovery"]["mean"] == pytest.approx(expected)
    assert entry(summarise(rows[:2] + rows[4:]), "ost-20")["gap_recovery"] is None, "without an oracle there is no gap"


def test_full_sft_stands_under_every_protocol():
    rows = [row("full", 0, 0.4, seconds=100), row("ost-50", 0, 0.6, "A", 40), row("ost-50", 0, 0.7, "B", 80)]
    summary = summarise(rows)
    for protocol, gain, share in (("A", 0.2, 0.4), ("B", 0.3, 0.8)):
        found = entry(summary, "ost-50", protocol)
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
        "ost-20": (0.7, 130),
        "ost-50": (0.65, 150),
        "oracle": (0.9, 1),
    }
    summary = summarise([row(subset, 0, accuracy, seconds=cost) for subset, (accuracy, cost) in points.items()])
    assert {e["subset"] for e in summary["entries"] if e["front"]} == {"random-20", "ost-20"}, "a ceiling is nobody's"


def test_the_smallest_fraction_that_is_not_significantly_worse():
    accuracies = {"ost-5": (0.3, 0.32, 0.31), "ost-20": (0.6, 0.7, 0.8), "ost-50": (0.66, 0.69, 0.81)}
    rows = [row(subset, seed, a) for subset, own in accuracies.items() for seed, a in enumerate(own)]
    rows += [row("full", seed, 0.4) for seed in range(3)]
    assert summarise(rows)["smallest_fraction"] == {"B": {"ost": 0.2}}


def test_entries_are_sorted_and_the_result_is_json():
    rows = [row("random-20", 0, 0.3), row("ost-20", 0, 0.6), row("ost-20", 0, 0.9, "A"), row("full", 0, 0.5)]
    summary = summarise(rows, [0.25])
    order = [(e["protocol"], e["subset"]) for e in summary["entries"]]
    assert order == [("B", "ost-20"), ("B", "full"), ("B", "random-20"), ("A", "ost-20"), ("A", "full")]
    assert (summary["seeds"], summary["base"]) == ([0], [0.25])
    assert all(math.isfinite(e[name]) for e in summary["entries"] for name in COSTS)


def test_purity_is_the_mean_over_seeds_and_none_where_nothing_is_kept():
    rows = [row(subset, seed, 0.5) for subset in ("anchors", "ost-20") for seed in (0, 1)]
    audits = {
        0: {"wrong_share": 0.5, "purity": {"anchors": None, "ost-20": 0.6}},
        1: {"wrong_share": 0.5, "purity": {"anchors": None, "ost-20": 0.8}},
    }
    summary = summarise(rows, audits=audits)
    assert entry(summary, "anchors")["purity"] is None and summary["detection"] == []
    assert entry(summary, "ost-20")["purity"] == pytest.approx(0.7)
    assert [entry(summary, subset)["ours"] for subset in ("anchors", "ost-20")] == [False, True]


def test_every_score_is_told_apart_from_the_others_seed_by_seed():
    told = {"auroc": 0.7, "flagged": 3, "precision": 0.9, "recall": 0.2}
    scores = {"one-step": told, "lookahead": told | {"auroc": 0.9, "flagged": 0, "precision": None}}
    audits = {0: {"wrong_share": 0.5, "purity": {}, "scores": scores}, 1: None}
    one, two = summarise([row("ost-20", 0, 0.5)], audits=audits)["detection"]
    assert one == {
        "seed": 0, "score": "one-step", "wrong_share": 0.5, "auroc": 0.7, "flagged": 3, "recall": 0.2,
        "false_discovery_rate": pytest.approx(0.1),
    }  # fmt: skip
    assert (two["score"], two["auroc"], two["false_discovery_rate"]) == ("lookahead", 0.9, 0.0)


# --- arms -------------------------------------------------------------------------------------------------------------

IDS = [f"s{number}" for number in range(10)]


def kept(arm: str, fraction: float, seed: int = 0, **columns) -> list[str]:
    table = pa.table({"id": IDS, **columns})
    chosen = ARMS[arm].choose(table, fraction, Params(seed=seed))
    assert chosen["id"].to_pylist() == IDS
    assert set(chosen.filter(pa.compute.is_valid(chosen["rank"]))["reason"].to_pylist()) <= {"kept"}
    return kept_ids(chosen)


def test_random_keeps_its_share_by_the_seed_alone():
    assert len(kept("random", 0.3)) == 3
    assert kept("random", 0.3) == kept("random", 0.3) != kept("random", 0.3, seed=1)
    assert sorted(kept("full", 1.0)) == IDS


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_has_a_rating_and_a_label_of_its_own(name):
    arm = ARMS[name]
    assert arm.rating in RATINGS and ("{share}" in arm.label) == (not arm.whole)
    assert [other for other, known in ARMS.items() if known.label == arm.label] == [name]


@pytest.mark.parametrize(("name", "rating"), [(name, rating) for name, rating in RATINGS.items() if name != "none"])
def test_a_rating_is_what_its_last_stage_makes_and_costs_what_all_of_them_do(name, rating):
    """The truth is given, and so are the ratings that come with a pool: they cost nobody anything."""
    assert rating.stages[-1] == f"rate-{name}" and rating.table == f"ratings/{name}.parquet"
    made = {"warmup": "models/proxy-warm", f"rate-{name}": f"ratings/{name}"}
    paid = [] if name in ("truth", "rated") else rating.stages
    assert list(rating.manifests) == [f"{made[stage]}.manifest.json" for stage in paid]


def test_both_scores_need_the_warm_proxy_and_none_the_other():
    assert [RATINGS[name].stages for name in SCORES] == [("warmup", "rate-one-step"), ("warmup", "rate-lookahead")]


def test_the_arms_with_anchors_keep_nothing_or_what_random_keeps():
    assert kept("anchors", 1.0) == []
    assert kept("random-anchors", 0.3) == kept("random", 0.3)


@pytest.mark.parametrize("arm", ["low-loss", "less", "color", "rho"])
def test_arms_with_a_score_keep_the_best(arm):
    scores = [0.1, 0.9, 0.5, float("nan"), 0.7, -1, -2, -3, -4, -5]
    assert kept(arm, 0.3, score=scores) == ["s1", "s4", "s2"]


def test_the_judge_keeps_what_it_agrees_with():
    assert kept("judge", 0.1, agrees=[number % 3 == 0 for number in range(10)]) == ["s0", "s3", "s6", "s9"]


def test_the_ceilings_keep_what_is_right():
    wrong = [number >= 4 for number in range(10)]
    assert kept("oracle", 1.0, wrong=wrong) == IDS[:4]
    assert set(kept("clean", 0.2, wrong=wrong)) < set(IDS[:4]) and len(kept("clean", 0.2, wrong=wrong)) == 2
    assert sorted(kept("clean", 0.5, wrong=wrong)) == IDS[:4], "there are no more"


def rated_pool(ratings: list[dict[str, float]]) -> pa.Table:
    """The columns of a pool whose samples came with these ratings."""
    column = [[{"name": name, "value": value} for name, value in own.items()] for own in ratings]
    ids = [f"s{number}" for number in range(len(ratings))]
    return pa.table({"id": ids, "ratings": pa.array(column, FEATURES.arrow_schema.field("ratings").type)})


RATINGS_OF_ONE = st.dictionaries(
    st.sampled_from([*AXES, "another"]), st.sampled_from([0, 1, 2, 3, 3.5, 4, 5, math.nan])
)


@given(st.lists(RATINGS_OF_ONE, min_size=1, max_size=30), st.sampled_from([0.05, 0.3, 0.5, 1.0]), st.randoms())
def test_rated_keeps_what_passes_the_highest_threshold_on_every_axis(ratings, fraction, shuffle):
    """Against its definition, with ties, samples without ratings, and numbers that are none."""
    known = [[own[axis] for axis in AXES if 1 <= own.get(axis, 0) <= 5] for own in ratings]
    marks = {f"s{place}": (min(own), sum(own) / len(own)) for place, own in enumerate(known) if own}
    pool = rated_pool(ratings)
    if not marks:
        with pytest.raises(
            DataError, match=r"`rated` chooses by FineVision's ratings, and none of the .* came with one"
        ):
            rated(pool)
        return
    chosen = ARMS["rated"].choose(rated(pool), fraction, Params(seed=shuffle.randint(0, 9)))
    kept, size = kept_ids(chosen), max(1, round(fraction * len(pool)))
    assert len(kept) == min(size, len(marks)) and set(kept) <= set(marks)
    assert [marks[name] for name in kept] == sorted(marks.values(), reverse=True)[:size]
    reasons = dict(zip(chosen["id"].to_pylist(), chosen["reason"].to_pylist(), strict=True))
    for name in set(reasons) - set(kept):
        tied = marks.get(name) == marks[kept[-1]]
        expected = "not drawn" if tied else "score below the cut" if name in marks else "it came without ratings"
        assert reasons[name] == expected


def test_equal_ratings_are_drawn_by_the_seed_whatever_the_pools_order():
    ratings = [{"relevance": 5, "formatting": 3}] * 4 + [{"relevance": 2, "formatting": 5}] * 30 + [{"formatting": 4}]
    table = rated(rated_pool(ratings))

    def kept(seed: int, table: pa.Table = table) -> list[str]:
        return kept_ids(ARMS["rated"].choose(table, 0.4, Params(seed=seed)))

    order = np.random.default_rng(0).permutation(len(table))
    assert kept(0) == kept(0, table.take(order)) and set(kept(0)) != set(kept(1))
    for seed in (0, 1):
        assert kept(seed)[0] == "s34" and set(kept(seed)[1:5]) == {"s0", "s1", "s2", "s3"}, "a better one was not kept"


def test_ratings_are_told_axis_by_axis():
    table = rated(rated_pool([{"visual_dependency": 1, "relevance": 4}, {}, {"formatting": 0}]))
    assert table.column_names == ["id", *AXES, "least", "mean"]
    first = {name: value for name, value in table.to_pylist()[0].items() if value == value}
    assert first == {"id": "s0", "relevance": 4, "visual_dependency": 1, "least": 1, "mean": 2.5}
    assert [[value == value for value in list(row.values())[1:]] for row in table.to_pylist()[1:]] == [[False] * 6] * 2


def test_deita_passes_over_what_is_like_a_kept_sample():
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(10)[[0, 0, 0, 1, 1, 2, 3, 4, 5, 6]].ravel()), 10)
    scores = np.arange(10, 0, -1.0)
    assert kept("deita", 0.3, score=scores, embedding=embedding) == ["s0", "s3", "s5"]
    table = pa.table({"id": IDS, "score": scores, "embedding": embedding})
    reasons = ARMS["deita"].choose(table, 0.3, Params())["reason"].to_pylist()
    assert reasons[1] == reasons[4] == "its embedding is like a kept sample's" and reasons[9] == "score below the cut"


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.125, 0.05, 1.0])
@pytest.mark.parametrize("arm", list(ARMS))
def test_keys_are_read_back(arm, fraction):
    trial = Trial(Subset(arm, 1.0 if ARMS[arm].whole else fraction), "A")
    assert Trial.parse(trial.key) == trial
    assert set(trial.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_AB"), "DVC's names hold no more"


@pytest.mark.parametrize("key", ["ost-B", "nobody-20-B", "ost-x-B", ""])
def test_another_key_is_an_error(key):
    with pytest.raises(ConfigError):
        Trial.parse(key)


def test_a_plan_trains_full_sft_once():
    trials = plan(Compare(arms=("full", "ost", "judge"), fractions=(0.2, 0.5), protocols=("B", "A")))
    assert [trial.key for trial in trials] == [
        "full-B", "ost-20-B", "ost-20-A", "ost-50-B", "ost-50-A", "judge-B", "judge-A",
    ]  # fmt: skip


def test_trials_that_need_the_anchors_are_stages_of_their_own():
    trials = plan(Compare(arms=("random", "anchors", "random-anchors"), fractions=(0.2,), protocols=("B",)))
    stages = [trial.stage for trial in trials]
    assert stages == ["trial@random-20-B", "trial-anchored@anchors-B", "trial-anchored@random-anchors-20-B"]


def test_an_unknown_arm_is_named_with_those_that_are_known():
    with pytest.raises(ConfigError, match="no arm is named 'osst'; known: full, random"):
        plan(Compare(arms=("osst",)))
