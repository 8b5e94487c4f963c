"""The part that breadth is chosen among, against its definition and mixtures whose truth is known; the draw from it."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from ost.errors import ConfigError
from ost.selection import NOT_DRAWN, expected_purity, kept_ids, select
from ost.selection.purity import BREADTH, p_right, part_of, purities
from ost.selection.strategies import BELOW
from ost.settings import Select
from ost.store import read_table, write_table


def conformal(scores: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    return np.array([(1 + np.sum(trusted <= score)) / (1 + len(trusted)) for score in scores])


def ranked(utility: np.ndarray, p: np.ndarray | None = None) -> pa.Table:
    """A score table whose ids follow the ranking."""
    columns = {"id": [f"{index:05d}" for index in range(len(utility))], "utility": utility, "toxic": utility < -9}
    return pa.table(columns | ({} if p is None else {"p_clean": p}))


def mixture(rng: np.random.Generator, count: int, wrong_share: float, apart: float, anchors: int):
    """Scores of right and of wrong samples, best first: whether each is right, and its p_clean."""
    right = rng.random(count) >= wrong_share
    scores = rng.normal(size=count) - apart * ~right
    order = np.argsort(-scores)
    return right[order], conformal(scores[order], rng.normal(size=anchors))


# --- expected purity --------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_above_each_step_it_is_storeys_count_of_right_ones(steps):
    p = np.sort(np.array(steps) / 12)[::-1]
    found = purities(p)
    low = max((step / 12 for step in steps if step <= 3), default=0.0)
    right = min(len(p), (sum(value > low for value in p) + 1) / (1 - low))
    for step in {0, *steps}:
        above = sum(value > step / 12 for value in p)
        if above and (step == 0 or step < max(steps)):
            expected = right * (1 - step / 12) / above
            assert found[above - 1] == pytest.approx(min(1, expected)), f"of those above step {step}"
    assert len(found) == len(p) and (found > 0).all() and (found <= 1).all()


@pytest.mark.parametrize("wrong_share", [0.0, 0.3, 0.6, 0.85])
def test_it_is_the_share_of_right_ones_in_mixtures_of_known_truth(wrong_share):
    right, p = mixture(np.random.default_rng(1), 6000, wrong_share, apart=4.0, anchors=3000)
    true = np.cumsum(right) / np.arange(1, 6001)
    for cut in (300, 1000, 2500, 5000, 6000):
        assert purities(p)[cut - 1] == pytest.approx(true[cut - 1], abs=0.06), f"of the first {cut:,}"


def test_with_few_anchors_it_is_right_on_average_and_errs_by_no_more_than_they_allow():
    runs = [mixture(np.random.default_rng(seed), 2000, 0.5, apart=4.0, anchors=100) for seed in range(60)]
    errors = [purities(p)[1199] - right[:1200].mean() for right, p in runs]
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 1 / np.sqrt(100)


def test_wrong_samples_that_look_like_right_ones_are_taken_for_such():
    """The one way that it errs: upwards, where the scores tell right from wrong badly."""
    right, p = mixture(np.random.default_rng(2), 6000, 0.5, apart=1.0, anchors=3000)
    true = np.cumsum(right) / np.arange(1, 6001)
    assert (purities(p)[500:] > true[500:] - 0.03).all()
    assert purities(p)[-1] < 0.85


# --- how likely each is right -----------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_a_chance_rises_with_p_and_is_one_for_all_of_the_same(steps):
    p = np.array(steps) / 12
    found = p_right(p)
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= 0).all() and (found >= 0).all() and (found <= 1).all()
    assert len({(a, b) for a, b in zip(p, found, strict=True)}) == len(set(steps))
    assert p_right(p[::-1]).tolist() == found[::-1].tolist(), "the order of the pool plays no part"


@pytest.mark.parametrize("wrong_share", [0.3, 0.6, 0.85])
def test_of_those_with_a_chance_as_many_are_right(wrong_share):
    """In mixtures of known truth, apart enough that few wrong ones look like anchors."""
    rng = np.random.default_rng(5)
    right, p = mixture(rng, 20_000, wrong_share, apart=3.0, anchors=3000)
    found = p_right(p)
    for low in np.arange(0, 1, 0.2):
        some = (found >= low) & (found < low + 0.2)
        if some.sum() > 500:
            assert right[some].mean() == pytest.approx(found[some].mean(), abs=0.1), f"chances from {low:.1f} on"


# --- the part ---------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    steps=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    size=st.integers(1, 70),
    purity=st.sampled_from([0.5, 0.9, 1.0]),
)
def test_it_is_the_largest_that_is_pure_enough(steps, size, purity):
    p = np.array(steps) / 12
    count, stated = part_of(ranked(np.zeros(len(p)), p), size, len(p), Select(purity=purity))
    pure = [k for k in range(1, len(p) + 1) if purities(p)[k - 1] >= purity]
    assert count == min(len(p), max(size, max(pure, default=0)))
    assert stated == purities(p)[count - 1]


@settings(max_examples=60)
@given(count=st.integers(1, 60), size=st.integers(1, 70), among=st.none() | st.floats(0.01, 1), told=st.booleans())
def test_what_is_asked_for_is_a_share_of_the_pool_and_never_less_than_the_subset(count, size, among, told):
    utility = np.linspace(1, -1, count)
    scores = ranked(utility, np.full(count, 0.5) if told else None)
    found, stated = part_of(scores, size, 2 * count, Select(among=among, purity=1e-9))
    wanted = round(among * 2 * count) if among else count if told else min(BREADTH * size, sum(utility > 0))
    assert found == min(count, max(size, wanted))
    assert (stated is None) == (not told)


@pytest.mark.parametrize("strategy", ["draw", "spread", "cover"])
def test_a_part_no_larger_than_the_subset_is_kept_whole(strategy):
    scores = ranked(np.linspace(1, -1, 40))
    sketch = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float16)
    scores = scores.append_column("sketch", pa.FixedSizeListArray.from_arrays(pa.array(sketch.ravel()), 4))
    kept = kept_ids(select(scores, 0.5, strategy, among=0.1))
    assert set(kept) == set(kept_ids(select(scores, 0.5, "top")))


@pytest.mark.parametrize(("name", "value"), [("among", 0.0), ("among", 1.5), ("purity", 0), ("by", "rank")])
def test_a_setting_out_of_range_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name}: .*found"):
        select(ranked(np.zeros(4)), 0.5, "draw", **{name: value})


# --- the draw ---------------------------------------------------------------------------------------------------------


def test_each_of_the_part_is_drawn_equally_often():
    scores, seeds, part, size = ranked(np.linspace(1, -1, 60)), 1500, 24, 6
    counts = dict.fromkeys(scores["id"].to_pylist(), 0)
    for seed in range(seeds):
        for name in kept_ids(select(scores, size / 60, "draw", seed=seed, among=part / 60)):
            counts[name] += 1
    drawn = np.array(list(counts.values()))
    assert not drawn[part:].any(), "one from below the part was drawn"
    expected = seeds * size / part
    # Drawn without replacement: the counts' variance is smaller than a multinomial's by 1 − size / part.
    statistic = np.sum((drawn[:part] - expected) ** 2) / expected / (1 - size / part) * (part - 1) / part
    assert 0.005 < chi2.sf(statistic, part - 1) < 0.995


@settings(max_examples=40)
@given(seed=st.integers(0, 999), among=st.floats(0.2, 1.0))
def test_what_is_drawn_comes_in_order_of_rank_and_the_others_are_told_why(seed, among):
    scores = ranked(np.linspace(1, -1, 50))
    chosen = select(scores, 0.2, "draw", seed=seed, among=among)
    kept, part = kept_ids(chosen), max(10, round(among * 50))
    assert kept == sorted(kept) and len(kept) == 10, "ids follow the ranking"
    reasons = dict(zip(chosen["id"].to_pylist(), chosen["reason"].to_pylist(), strict=True))
    for index, (name, reason) in enumerate(reasons.items()):
        assert name in kept or reason == (NOT_DRAWN if index < part else BELOW)
    assert part < 30 or kept != kept_ids(select(scores, 0.2, "draw", seed=seed + 1, among=among))


def test_the_table_states_the_expected_purity(tmp_path):
    right, p = mixture(np.random.default_rng(3), 2000, 0.5, apart=4.0, anchors=500)
    scores = ranked(np.linspace(1, -1, 2000), p)
    chosen = select(scores, 0.2, "draw", purity=0.95)
    stated = expected_purity(chosen)
    assert 0.95 <= stated < 0.96
    drawn = right[np.isin(scores["id"].to_pylist(), kept_ids(chosen))]
    assert drawn.mean() == pytest.approx(stated, abs=0.05)
    write_table(tmp_path / "chosen.parquet", chosen)
    assert expected_purity(read_table(tmp_path / "chosen.parquet")) == stated
    assert expected_purity(select(scores, 0.2, "top")) is None, "the top is not chosen from a part"
    assert expected_purity(select(scores.drop_columns(["p_clean"]), 0.2, "draw")) is None, "nothing is known of it"
