"""The strategies against independent references: counting, ranking, plain greedy and brute force.

`draw` and the part that is chosen among stand in test_purity.py, `spread` in test_spread.py.
"""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from ost.errors import DataError
from ost.selection import KEPT, NOT_DRAWN, STRATEGIES, cover, kept_ids, select, vectors
from ost.selection.by_utility import QUARANTINED, TOXIC
from ost.selection.purity import BREADTH
from ost.selection.strategies import BELOW, COVERED, OUTVOTED, QUOTA, REPEATED

GROUPS = ("product", "sum")
REASONS = {TOXIC, QUARANTINED, BELOW, QUOTA, OUTVOTED, NOT_DRAWN, REPEATED, COVERED}


@st.composite
def pools(draw_) -> pa.Table:
    """Score tables with ties, several tasks, quarantined samples and sketches of a few kinds."""
    count, rng = draw_(st.integers(1, 40)), np.random.default_rng(draw_(st.integers(0, 2**16)))
    return pool(rng, count, draw_(st.sampled_from([0.0, 0.2])))


def pool(rng: np.random.Generator, count: int, broken: float = 0.0, kinds: int = 5) -> pa.Table:
    by_group = rng.integers(-3, 4, size=(count, 2)).astype(float)
    utility = np.where(rng.random(count) < broken, np.nan, by_group.mean(axis=1))
    length = rng.integers(5, 50, count)
    sketch = rng.normal(size=(kinds, 9))[rng.integers(kinds, size=count)] + 0.1 * rng.normal(size=(count, 9))
    return pa.table({
        "id": [f"{index:03d}" for index in rng.permutation(count)],
        "utility": utility,
        "utility_per_token": utility / length,
        "toxic": utility < -2,
        "loss": np.ones(count),
        "length": length,
        "task": rng.choice(["product", "sum", "maximum"], count, p=[0.6, 0.3, 0.1]),
        **{f"utility/{name}": np.where(np.isnan(utility), np.nan, by_group[:, at]) for at, name in enumerate(GROUPS)},
        "sketch": pa.FixedSizeListArray.from_arrays(pa.array(sketch.astype(np.float16).ravel()), 9),
    })  # fmt: skip


def lookahead(scores: pa.Table) -> pa.Table:
    """With the columns that only some methods know, drawn apart from the others."""
    utility, rng = scores["utility"].to_numpy(), np.random.default_rng(len(scores))
    p = np.where(np.isnan(utility), np.nan, rng.integers(1, 12, len(scores)) / 11)
    relative = utility / rng.integers(1, 4, len(scores))
    return scores.append_column("utility_relative", pa.array(relative)).append_column("p_clean", pa.array(p))


def rows_of(scores: pa.Table) -> list[dict]:
    """Those that may be kept."""
    return [row for row in scores.to_pylist() if row["utility"] == row["utility"] and not row["toxic"]]


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("by", ["auto", "utility", "utility_per_token"])
@settings(max_examples=25)
@given(
    scores=pools(),
    more=st.booleans(),
    fraction=st.floats(0.01, 1.0),
    among=st.none() | st.floats(0.01, 1.0),
    seed=st.integers(0, 99),
)
def test_every_sample_is_kept_or_told_why_not(strategy, by, scores, more, fraction, among, seed):
    scores = lookahead(scores) if more else scores
    chosen = select(scores, fraction, strategy, by, 0.0, seed, among)
    kept, usable = kept_ids(chosen), {row["id"] for row in rows_of(scores)}
    assert len(kept) == len(set(kept)) == min(max(1, round(fraction * len(scores))), len(usable))
    assert set(kept) <= usable, "a quarantined or a toxic sample was kept"
    assert chosen["id"].equals(scores["id"])
    for row, score in zip(chosen.to_pylist(), scores.to_pylist(), strict=True):
        assert (row["reason"] == KEPT) == (row["rank"] is not None) == (row["id"] in kept)
        assert (row["reason"] == QUARANTINED) == (score["utility"] != score["utility"])
        assert (row["reason"] == TOXIC) == score["toxic"]
        assert row["rank"] or row["reason"] in REASONS
    other = scores.take(np.random.default_rng(seed).permutation(len(scores)))
    again = select(other, fraction, strategy, by, 0.0, seed, among)
    assert kept_ids(again) == kept, "the pool's order plays a part"


def test_what_ranks_is_relative_where_the_scores_have_it():
    bare = pool(np.random.default_rng(4), 60)
    scores = lookahead(bare)
    relative, absolute = (kept_ids(select(scores, 0.3, "top", by, 0.0)) for by in ("utility_relative", "utility"))
    assert relative != absolute
    assert tuple(kept_ids(select(own, 0.3, "top", clean_below=0.0)) for own in (scores, bare)) == (relative, absolute)
    with pytest.raises(DataError, match="no column `utility_relative` to rank by; they have id, utility,"):
        select(bare, 0.3, "top", "utility_relative")


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_of_a_pool_that_is_all_quarantined_nothing_is_kept(strategy):
    chosen = select(pool(np.random.default_rng(0), 8, broken=1.0), 0.5, strategy)
    assert set(chosen["reason"].to_pylist()) == {QUARANTINED}


# --- quota ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(scores=pools(), fraction=st.floats(0.05, 1.0))
def test_quotas_follow_the_pools_mix(scores, fraction):
    kept = set(kept_ids(select(scores, fraction, "quota")))
    size = max(1, round(fraction * len(scores)))
    everyone, usable = scores["task"].to_pylist(), rows_of(scores)
    short = any(
        size * everyone.count(task) / len(everyone) > sum(row["task"] == task for row in usable)
        for task in set(everyone)
    )
    for task in set(everyone):
        own = sorted((row for row in usable if row["task"] == task), key=lambda row: (-row["utility"], row["id"]))
        taken = [row["id"] in kept for row in own]
        assert taken == sorted(taken, reverse=True), "within a task, the best come first"
        share = size * everyone.count(task) / len(everyone)
        assert short or abs(sum(taken) - share) < 1, "off by more than the rounding"


def test_places_left_by_a_task_that_ran_short_go_to_the_best_of_the_others():
    scores = pa.table({
        "id": list("abcdef"), "task": ["x"] * 3 + ["y"] * 3, "utility": [1.0, np.nan, np.nan, 5.0, 4.0, 3.0],
        "toxic": [False] * 6,
    })  # fmt: skip
    assert kept_ids(select(scores, 4 / 6, "quota")) == ["d", "e", "f", "a"]


def test_a_quota_differs_from_the_top_where_one_task_leads():
    scores = pool(np.random.default_rng(3), 400)
    lead = scores["utility"].to_numpy() + 10 * (np.array(scores["task"].to_pylist()) == "sum")
    scores = scores.set_column(1, "utility", pa.array(lead))
    task = dict(zip(scores["id"].to_pylist(), scores["task"].to_pylist(), strict=True))

    def share(strategy: str) -> float:
        return np.mean([task[name] == "sum" for name in kept_ids(select(scores, 0.1, strategy))])

    assert share("top") == 1.0
    assert share("quota") == pytest.approx(0.3, abs=0.06)


# --- vote -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(scores=pools(), per_token=st.booleans())
def test_votes_are_mean_ranks_over_the_anchors_tasks(scores, per_token):
    rows = rows_of(scores)
    if not rows:
        return
    cost = np.array([row["length"] if per_token else 1.0 for row in rows])
    ranks = sum(rankdata([row[f"utility/{name}"] for row in rows] / cost) for name in GROUPS)
    by = "utility_per_token" if per_token else "utility"
    order = sorted(range(len(rows)), key=lambda at: (-round(ranks[at], 6), -rows[at][by], rows[at]["id"]))
    kept = kept_ids(select(scores, 0.5, "vote", by))
    assert kept == [rows[at]["id"] for at in order][: len(kept)]


def test_a_vote_is_deaf_to_how_loud_a_task_is():
    scores = pool(np.random.default_rng(5), 60)
    loud = scores.set_column(
        scores.column_names.index("utility/sum"), "utility/sum", pa.array(1000 * scores["utility/sum"].to_numpy())
    )
    assert kept_ids(select(loud, 0.3, "vote")) == kept_ids(select(scores, 0.3, "vote"))


def test_scores_without_groups_or_sketches_are_refused_with_the_remedy():
    bare = pool(np.random.default_rng(0), 10).select(["id", "utility", "toxic", "loss", "task"])
    with pytest.raises(DataError, match=r"score by one step, with method gradient or exact"):
        select(bare, 0.5, "vote")
    for strategy in ("spread", "cover"):
        with pytest.raises(DataError, match=rf"`{strategy}` compares .*score\.sketch: 256"):
            select(bare, 0.5, strategy)
    holed = pool(np.random.default_rng(0), 10)
    holed = holed.set_column(holed.column_names.index("sketch"), "sketch", pa.nulls(10, holed["sketch"].type))
    with pytest.raises(DataError, match=r"score\.sketch: 256"):
        select(holed, 0.5, "cover")


# --- cover ------------------------------------------------------------------------------------------------------------


def cosines(sketches: np.ndarray) -> np.ndarray:
    unit = sketches.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
    return np.maximum(unit @ unit.T, 0)


def worth(sketches: np.ndarray, chosen) -> float:
    return cosines(sketches)[:, list(chosen)].max(axis=1).sum()


def plain_greedy(sketches: np.ndarray, size: int) -> list[int]:
    """Every candidate is tried at every step."""
    chosen: list[int] = []
    for _ in range(size):
        rest = [index for index in range(len(sketches)) if index not in chosen]
        chosen.append(max(rest, key=lambda index: worth(sketches, [*chosen, index])))
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_the_lazy_greedy_is_the_greedy(seed):
    sketches = np.random.default_rng(seed).normal(size=(30, 6)).astype(np.float32)
    found = cover.cover(sketches, 9)
    assert found.tolist() == plain_greedy(sketches, 9)


def likely_greedy(sketches: np.ndarray, size: int, right: np.ndarray) -> list[int]:
    """Every candidate is tried at every step, by what it adds, times its chance squared and those of what it covers."""
    similarity, chosen = cosines(sketches), []
    for _ in range(size):
        known = similarity[chosen].max(axis=0, initial=0)
        gains = right**2 * (np.maximum(similarity - known, 0) @ right)
        chosen.append(max(set(range(len(right))) - set(chosen), key=lambda index: gains[index]))
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_what_is_added_counts_by_the_chance_that_it_is_right(seed):
    rng = np.random.default_rng(seed)
    sketches, right = rng.normal(size=(30, 6)).astype(np.float32), rng.random(30)
    found = cover.cover(sketches, 9, right)
    assert found.tolist() == likely_greedy(sketches, 9, right)
    alike = cover.cover(sketches, 9, np.full(30, 0.25))
    assert alike.tolist() == cover.cover(sketches, 9).tolist(), "one chance for all tells nothing"


def test_unusual_samples_that_are_likely_wrong_are_passed_over():
    """Thirty likely wrong samples that nothing is like: breadth alone takes each of them before any kind twice."""
    sketches, right = np.eye(40)[[*np.repeat(np.arange(10), 6), *range(10, 40)]], np.repeat([0.9, 0.2], [60, 30])
    sketches += 0.05 * np.random.default_rng(0).normal(size=sketches.shape)
    kept = {
        name: cover.cover(sketches.astype(np.float32), 20, odds) for name, odds in (("blind", None), ("told", right))
    }
    assert (kept["blind"] >= 60).sum() >= 8
    assert (kept["told"] < 60).all() and len({index // 6 for index in kept["told"]}) == 10


@settings(max_examples=25)
@given(seed=st.integers(0, 999), size=st.integers(1, 4))
def test_it_is_worth_nearly_as_much_as_the_best_set(seed, size):
    sketches = np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32)
    best = max(worth(sketches, some) for some in itertools.combinations(range(9), size))
    assert worth(sketches, cover.cover(sketches, size)) >= (1 - 1 / np.e) * best


def test_each_kind_is_chosen_before_any_kind_twice():
    """Five kinds of gradient, one of them in 80 of 100 samples: ranking would take it alone."""
    rng = np.random.default_rng(1)
    kinds = np.repeat(np.arange(5), [80, 5, 5, 5, 5])
    sketches = (np.eye(5)[kinds] + 0.02 * rng.normal(size=(100, 5))).astype(np.float32)
    assert set(kinds[cover.cover(sketches, 5)]) == set(range(5))


def test_opposite_gradients_do_not_stand_for_each_other():
    sketches = np.array([[1, 0], [-1, 0], [1, 0.1]], dtype=np.float32)
    assert set(cover.cover(sketches, 2).tolist()) in ({0, 1}, {1, 2})


def test_silent_samples_and_whole_pools():
    sketches = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float32)
    sketches[3] = 0
    found = cover.cover(sketches, 12)
    assert sorted(found.tolist()) == list(range(12)) and found[-1] == 3, "what has no gradient stands for nobody"


@pytest.mark.parametrize("size", [60, 150, 300])
def test_divided_it_is_worth_nearly_as_much(size, monkeypatch):
    rng = np.random.default_rng(3)
    sketches = (rng.normal(size=(40, 12))[rng.integers(40, size=600)] + 0.4 * rng.normal(size=(600, 12))).astype("f4")
    whole = worth(sketches, cover.cover(sketches, size))
    monkeypatch.setattr(vectors, "PART", 100)
    found = cover.cover(sketches, size)
    assert len(set(found.tolist())) == size
    assert worth(sketches, found) > 0.97 * whole
    drawn = np.mean([worth(sketches, rng.choice(600, size, replace=False)) for _ in range(20)])
    assert whole - worth(sketches, found) < 0.25 * (whole - drawn), "most of what is won over a draw is lost again"


def test_neighbourhoods_that_are_worlds_apart_cost_nothing(monkeypatch):
    """No cosine across them is above zero, so that the divided choice is the greedy one itself."""
    rng, kinds = np.random.default_rng(6), np.repeat(np.eye(4), 2, axis=1)
    sketches = np.repeat(kinds, 25, axis=0) * rng.uniform(0.1, 1, size=(100, 8)).astype(np.float32)
    whole = cover.cover(sketches.astype(np.float32), 30)
    monkeypatch.setattr(vectors, "PART", 50)
    assert set(cover.cover(sketches.astype(np.float32), 30).tolist()) == set(whole.tolist())


def test_candidates_are_the_best_ranked():
    scores = pool(np.random.default_rng(7), 200)
    chosen = select(scores, 0.1, "cover")
    best = set(kept_ids(select(scores, 0.1 * BREADTH, "top")))
    assert set(kept_ids(chosen)) < best
    assert set(kept_ids(chosen)) != set(kept_ids(select(scores, 0.1, "top")))
    passed = {row["id"] for row in chosen.to_pylist() if row["reason"] == COVERED}
    assert passed <= best and passed


def test_harmful_samples_are_no_candidates_while_others_last():
    """Half the pool has a positive utility: at a half, cover is the top; above, the best of the others come in."""
    scores = pool(np.random.default_rng(8), 200)
    utility = np.linspace(-1, 1, 200)[np.random.default_rng(9).permutation(200)]
    scores = scores.set_column(1, "utility", pa.array(utility))
    for fraction in (0.5, 0.7):
        assert set(kept_ids(select(scores, fraction, "cover"))) == set(kept_ids(select(scores, fraction, "top")))
    kept = set(kept_ids(select(scores, 0.3, "cover")))
    assert all(row["utility"] > 0 for row in scores.to_pylist() if row["id"] in kept)
