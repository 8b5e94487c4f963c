"""Selections: who is kept, in what order, and why each other one is not."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.arms import arm_of
from ost.errors import ConfigError
from ost.selection import KEPT, STRATEGIES, by_utility, is_clean, kept_ids, select, toxic_list, warnings_of
from ost.selection.by_utility import QUARANTINED, TOXIC
from ost.selection.strategies import BELOW
from ost.settings import Select, Settings

FRACTIONS = st.floats(0.01, 1.0)


def table(utility: list[float], ids: list[str] | None = None) -> pa.Table:
    ids = ids or [f"{index:03d}" for index in range(len(utility))]
    values = np.array(utility, dtype=np.float64)
    return pa.table({
        "id": ids,
        "utility": values,
        "toxic": values < 0,
        "loss": np.abs(values),
        "tokens": np.ones(len(values), dtype=np.int32),
        "task": ["sum"] * len(values),
    })  # fmt: skip


@st.composite
def scores(draw_) -> pa.Table:
    """A score table with ties, negative and NaN utilities, its ids in no order."""
    utility = draw_(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0, np.nan]), min_size=1, max_size=40))
    ids = [f"{index:03d}" for index in range(len(utility))]
    random.Random(draw_(st.integers(0, 99))).shuffle(ids)
    return table(utility, ids)


def shuffled(scores: pa.Table, seed: int) -> pa.Table:
    return scores.take(np.random.default_rng(seed).permutation(len(scores)))


def by_id(selection: pa.Table) -> dict:
    return {row["id"]: (row["rank"], row["reason"]) for row in selection.to_pylist()}


@settings(max_examples=80)
@given(scores=scores(), fraction=FRACTIONS)
def test_the_best_are_kept_in_order_and_ties_go_by_id(scores, fraction):
    rows = [row for row in scores.to_pylist() if row["utility"] == row["utility"] and not row["toxic"]]
    best = sorted(rows, key=lambda row: (-row["utility"], row["id"]))
    wanted = max(1, round(fraction * len(scores)))
    assert kept_ids(select(scores, fraction, "top")) == [row["id"] for row in best[:wanted]]


@settings(max_examples=60)
@given(scores=scores(), fraction=FRACTIONS, seed=st.integers(0, 99))
def test_the_order_of_the_pool_plays_no_part(scores, fraction, seed):
    other = shuffled(scores, seed)
    assert by_id(select(scores, fraction, "top")) == by_id(select(other, fraction, "top")), (
        "select breaks ties by row order"
    )


@settings(max_examples=60)
@given(scores=scores(), fraction=FRACTIONS, seed=st.integers(0, 99))
def test_every_row_has_one_rank_or_a_true_reason(scores, fraction, seed):
    chosen = by_utility(scores, fraction, Select(strategy="top"), seed)
    assert chosen.column_names == ["id", "rank", "reason"]
    assert chosen["id"].to_pylist() == scores["id"].to_pylist(), "rows must be in pool order"
    ranks = sorted(rank for rank in chosen["rank"].to_pylist() if rank is not None)
    assert ranks == list(range(1, len(ranks) + 1))
    for row, utility in zip(chosen.to_pylist(), scores["utility"].to_pylist(), strict=True):
        if utility != utility:
            expected = QUARANTINED
        elif row["rank"] is not None:
            expected = KEPT
        else:
            expected = TOXIC if utility < 0 else BELOW
        assert row["reason"] == expected, f"{row} with utility {utility}"
        assert (row["reason"] == KEPT) == (row["rank"] is not None), "a quarantined sample was kept"


@pytest.mark.parametrize(("count", "fraction", "kept"), [(10, 0.2, 2), (7, 0.5, 4), (3, 0.01, 1), (5, 1.0, 5)])
def test_the_kept_share_is_of_the_whole_pool(count, fraction, kept):
    scores = table([float(index) for index in range(count)])
    assert len(kept_ids(select(scores, fraction, "top"))) == kept


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("change", [{"fraction": 1.0}, {"fraction": 0.8}, {"fraction": 0.4, "among": 1.0}])
def test_what_is_toxic_is_kept_by_no_strategy_however_much_is_asked_for(strategy, change):
    scores = table([*np.linspace(-1.0, 1.0, 40)])
    scores = scores.append_column("utility/sum", scores["utility"])
    sketch = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float16)
    scores = scores.append_column("sketch", pa.FixedSizeListArray.from_arrays(pa.array(sketch.ravel()), 4))
    chosen = select(scores, strategy=strategy, **change)
    toxic = set(toxic_list(scores)["id"].to_pylist())
    assert len(toxic) == 20 and not toxic & set(kept_ids(chosen))
    assert {row["id"] for row in chosen.to_pylist() if row["reason"] == TOXIC} == toxic
    assert len(kept_ids(chosen)) == min(20, round(40 * change["fraction"]))


def test_a_subset_that_is_smaller_than_asked_for_is_told():
    scores, settings = table([np.nan, -3.0, -2.0, -1.0, 1.0, 2.0]), Settings(seed=0)
    (told,) = warnings_of(scores, settings.select, 0.9)
    assert told.startswith("5 of 6 samples are asked for, and 2 are kept: all others are toxic")
    assert arm_of("lookahead").warn(scores, settings, 0.9) == [told] and len(kept_ids(select(scores, 0.9, "top"))) == 2
    assert warnings_of(scores, settings.select, 0.3) == warnings_of(scores, settings.select) == []


def test_quarantined_samples_count_in_the_pool_but_are_never_kept():
    scores = table([np.nan] * 6 + [1.0, 2.0, 0.5, 0.0])
    assert kept_ids(select(scores, 0.2, "top")) == ["007", "006"]
    assert sorted(kept_ids(select(scores, 1.0, "top"))) == ["006", "007", "008", "009"]
    assert kept_ids(select(table([np.nan, np.nan]), 1.0, "top")) == []


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, 20, float("nan")])
def test_a_fraction_out_of_range_is_refused_with_its_value(fraction):
    with pytest.raises(ConfigError, match=rf"\(0, 1\]; found {fraction}"):
        select(table([1.0, 2.0]), fraction)


def test_the_call_chooses_as_the_settings_do():
    """By default, and where the pool is clean."""
    sketch = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(1).normal(size=800)), 4)
    for toxic in (0, 100):
        scores = flagged(toxic).append_column("sketch", sketch)
        assert select(scores).equals(by_utility(scores, 0.2, Select(), 0))
    assert kept_ids(select(scores)) != kept_ids(select(scores, strategy="top")), "the default is for breadth"


def test_the_toxic_list_names_the_worst_first():
    listed = toxic_list(table([0.5, -1.0, np.nan, -3.0, 0.0]))
    assert listed.column_names == ["id", "utility", "loss", "task"]
    assert listed["id"].to_pylist() == ["003", "001"]


# --- a clean pool -----------------------------------------------------------------------------------------------------


def flagged(toxic: int, count: int = 200) -> pa.Table:
    """Scores with standard errors, so many of them toxic, the least useful ones not the least."""
    found = table(list(np.linspace(1.0, 2.0, count)))
    flags = pa.array([index < toxic for index in range(count)])
    found = found.set_column(found.column_names.index("toxic"), "toxic", flags)
    return found.append_column("utility_se", pa.array(np.ones(count)))


def test_from_a_clean_pool_the_subset_is_drawn():
    scores, chosen_by = flagged(toxic=1), Select(clean_below=0.01, strategy="top")
    chosen = by_utility(scores, 0.5, chosen_by, seed=0)
    kept = kept_ids(chosen)
    assert len(kept) == 100 and "000" not in kept, "the one that is toxic is left out all the same"
    assert 30 < len(set(kept) & set(kept_ids(select(scores, 0.5, "top", clean_below=0.0)))) < 70, (
        "a draw is not the ranking"
    )
    assert by_id(chosen)["000"] == (None, TOXIC)
    assert (
        kept
        == kept_ids(by_utility(shuffled(scores, 3), 0.5, chosen_by, seed=0))
        != kept_ids(by_utility(scores, 0.5, chosen_by, seed=1))
    )
    (warning,) = warnings_of(scores, chosen_by)
    assert warning.startswith("1 of 200 samples are toxic") and "drawn at random" in warning


@pytest.mark.parametrize(("toxic", "clean_below"), [(2, 0.01), (0, 0.0), (150, 0.01)])
def test_a_pool_with_harm_in_it_is_ranked(toxic, clean_below):
    scores, chosen_by = flagged(toxic), Select(clean_below=clean_below, strategy="top")
    assert kept_ids(by_utility(scores, 0.2, chosen_by, 0)) == kept_ids(select(scores, 0.2, "top", clean_below=0.0))
    assert warnings_of(scores, chosen_by) == []


def test_whether_a_pool_is_clean_is_judged_by_the_samples_that_are_tested():
    scores = flagged(toxic=4)
    q = pa.array([0.01 if index < 4 else 0.5 if index < 40 else None for index in range(200)])
    mixed, untested = (scores.append_column("toxic_q", values) for values in (q, pa.nulls(200, pa.float64())))
    strict, lax = Select(clean_below=0.05), Select(clean_below=0.11)
    assert is_clean(scores, strict) and is_clean(mixed, lax)
    assert not is_clean(mixed, strict), "4 of 40 that are tested are toxic"
    assert not is_clean(untested, strict), "none is tested"


@pytest.mark.parametrize(("anchors", "wrong", "clean"), [(100, 0.0, True), (100, 0.5, False), (10, 0.5, False)])
def test_a_pool_in_which_too_few_are_like_the_anchors_is_not_clean_though_no_test_finds_harm(anchors, wrong, clean):
    rng = np.random.default_rng(anchors)
    steps = np.where(rng.random(2000) < wrong, 0, rng.integers(0, anchors + 1, 2000))
    scores = flagged(toxic=0, count=2000).append_column("p_clean", pa.array((1 + steps) / (1 + anchors)))
    assert is_clean(scores, Select()) == clean
    assert not is_clean(scores, Select(clean_below=0.0))


def test_without_standard_errors_no_pool_is_called_clean():
    scores = table(list(np.linspace(1.0, 2.0, 200)))
    for own in (scores, scores.append_column("utility_se", pa.nulls(200, pa.float64()))):
        assert kept_ids(by_utility(own, 0.2, Select(clean_below=1.0, strategy="top"), 0)) == kept_ids(
            select(own, 0.2, "top")
        )


def test_a_walk_tells_a_clean_pool_without_them():
    scores = table(list(np.linspace(1.0, 2.0, 200)))
    scores = scores.append_column("utility_se", pa.nulls(200, pa.float64())).append_column(
        "utility_relative", scores["utility"]
    )
    assert is_clean(scores, Select(clean_below=0.05))
    drawn = arm_of("random").choose(scores, 0.2, Settings(seed=0))
    assert kept_ids(by_utility(scores, 0.2, Select(), 0)) == kept_ids(drawn)
