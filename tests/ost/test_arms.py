"""Arms: the registry, what each has to know, and how it chooses."""

import functools
import operator
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ost.arms
from ost.arms import POOL, TRUTH, Scores, arm_of, arms, scores_of
from ost.arms.plan import PURE, Subset
from ost.baselines.finevision import AXES, rated
from ost.data import FEATURES
from ost.errors import ConfigError, DataError
from ost.scoring import read_scores
from ost.selection import KEPT, NOT_DRAWN, kept_ids
from ost.selection.purity import purities
from ost.settings import Select, Settings

IDS = [f"s{number}" for number in range(10)]
SCORES = {arm.by.name: arm.by for arm in arms().values() if isinstance(arm.by, Scores)}


def choose(arm: str, table: pa.Table, fraction: float | None, **changes) -> pa.Table:
    chosen = arm_of(arm).choose(table, fraction, Settings(**changes))
    assert chosen["id"].to_pylist() == table["id"].to_pylist()
    assert set(chosen.filter(pc.is_valid(chosen["rank"]))["reason"].to_pylist()) <= {KEPT}
    return chosen


def kept(arm: str, fraction: float | None, seed: int = 0, ids: list[str] = IDS, **columns) -> list[str]:
    return kept_ids(choose(arm, pa.table({"id": ids, **columns}), fraction, seed=seed))


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_file_that_is_dropped_into_the_folder_adds_its_arm(tmp_path, monkeypatch):
    (tmp_path / "dropped.py").write_text(
        "from ost.arms.floors import Arm, nothing\nARMS = (Arm('mine', 'Mine {share}', nothing, place=5),)\n"
    )
    (tmp_path / "without.py").write_text("")
    before = list(arms())
    monkeypatch.setattr(ost.arms, "__path__", [*ost.arms.__path__, str(tmp_path)])
    arms.cache_clear()
    try:
        at = next(place for place, name in enumerate(before) if arm_of(name).place > 5)
        assert list(arms()) == [*before[:at], "mine", *before[at:]], "tables have the arms by their place"
        assert Subset.parse("mine-20").label == "Mine 20 %"
    finally:
        monkeypatch.undo()
        for name in ("dropped", "without"):
            sys.modules.pop(f"ost.arms.{name}", None)
            vars(ost.arms).pop(name, None)
        arms.cache_clear()
    assert list(arms()) == before


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        arms()["mine"] = arm_of("full")


@pytest.mark.parametrize("name", list(arms()))
def test_every_arm_has_what_it_chooses_by_and_a_label_of_its_own(name):
    arm = arm_of(name)
    assert arm.name == name and ("{share}" in arm.label) == (not arm.whole)
    assert [other for other, known in arms().items() if known.label == arm.label] == [name]
    assert arm.by in (POOL, TRUTH) or scores_of(arm.by.name) is arm.by, "two tables would have one name"
    assert arm.is_ceiling == (arm.by == TRUTH) and arm.utility == (
        getattr(arm.by, "name", "") in ("one-step", "lookahead")
    )


@pytest.mark.parametrize("name", list(SCORES))
def test_scores_name_sample_sets_models_and_settings_that_there_are(name):
    known = {"pool", "anchors", "proxy", "proxy-warm", "judge"}
    told = Settings().model_dump()
    for path in [*SCORES[name].settings, *(read for read in SCORES[name].reads if read not in known)]:
        functools.reduce(operator.getitem, path.split("."), told)
    assert "pool" in SCORES[name].reads


def test_both_scores_need_the_warm_proxy_and_none_the_other():
    for name in ("one-step", "lookahead"):
        assert scores_of(name).reads == ("pool", "anchors", "proxy", "proxy-warm")


def test_what_is_not_known_is_named_with_what_is():
    with pytest.raises(ConfigError, match="no arm is named 'osst'; known: full, random"):
        arm_of("osst")
    with pytest.raises(ConfigError, match="no scores are named 'utility'; known: loss, less"):
        scores_of("utility")


# --- floors and ceilings ----------------------------------------------------------------------------------------------


def test_random_keeps_its_share_by_the_seed_alone():
    assert len(kept("random", 0.3)) == 3
    assert kept("random", 0.3) == kept("random", 0.3) != kept("random", 0.3, seed=1)
    assert sorted(kept("full", 1.0)) == IDS
    assert kept("full", 1.0)[:3] == kept("random", 0.3), "the random arm is the head of the full one's order"


@pytest.mark.parametrize(("count", "fraction", "size"), [(10, 0.2, 2), (7, 0.5, 4), (3, 0.01, 1), (5, 1.0, 5)])
def test_a_draw_is_of_the_whole_pool(count, fraction, size):
    assert len(kept("random", fraction, ids=IDS[:count])) == size


@given(order=st.permutations(IDS), fraction=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_a_draw_is_blind_to_the_pools_order_and_says_so_of_what_it_left(order, fraction, seed):
    chosen = choose("random", pa.table({"id": order}), fraction, seed=seed)
    assert kept_ids(chosen) == kept("random", fraction, seed)
    assert {row["reason"] for row in chosen.to_pylist() if row["rank"] is None} <= {NOT_DRAWN}


def test_a_draw_follows_its_seed_alone():
    ids = [f"{number:03d}" for number in range(200)]
    assert len(set(kept("random", 0.2, 0, ids)) & set(kept("random", 0.2, 1, ids))) < 20, "another seed draws the same"


def test_a_draw_takes_every_sample_alike():
    """1,000 draws of a fifth: each sample comes 200 times, within five standard deviations (√160)."""
    ids = [f"{number:03d}" for number in range(20)]
    drawn = [name for seed in range(1000) for name in kept("random", 0.2, seed, ids)]
    assert max(abs(drawn.count(name) - 200) for name in ids) < 5 * 160**0.5


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, 20, float("nan")])
def test_a_fraction_out_of_range_is_refused_with_its_value(fraction):
    with pytest.raises(ConfigError, match=rf"\(0, 1\]; found {fraction}"):
        kept("random", fraction)


def test_the_arms_with_anchors_keep_nothing_or_what_random_keeps():
    assert kept("anchors", 1.0) == []
    assert kept("random-anchors", 0.3) == kept("random", 0.3)
    assert [name for name, arm in arms().items() if arm.with_anchors] == ["anchors", "random-anchors"]


def test_the_ceilings_keep_what_is_right():
    wrong = [number >= 4 for number in range(10)]
    assert kept("oracle", 1.0, wrong=wrong) == IDS[:4]
    assert set(kept("clean", 0.2, wrong=wrong)) < set(IDS[:4]) and len(kept("clean", 0.2, wrong=wrong)) == 2
    assert sorted(kept("clean", 0.5, wrong=wrong)) == IDS[:4], "there are no more"


# --- rivals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["low-loss", "less", "color", "rho"])
def test_arms_with_a_score_keep_the_best(arm):
    scores = [0.1, 0.9, 0.5, float("nan"), 0.7, -1, -2, -3, -4, -5]
    assert kept(arm, 0.3, score=scores) == ["s1", "s4", "s2"]


def test_the_judge_keeps_what_it_agrees_with():
    assert kept("judge", 0.1, agrees=[number % 3 == 0 for number in range(10)]) == ["s0", "s3", "s6", "s9"]


def rated_pool(ratings: list[dict[str, float]]) -> pa.Table:
    """The columns of a pool whose samples came with these ratings."""
    column = [[{"name": name, "value": value} for name, value in own.items()] for own in ratings]
    ids = [f"s{number}" for number in range(len(ratings))]
    return pa.table({"id": ids, "ratings": pa.array(column, FEATURES.arrow_schema.field("ratings").type)})


RATINGS_OF_ONE = st.dictionaries(
    st.sampled_from([*AXES, "another"]), st.sampled_from([0, 1, 2, 3, 3.5, 4, 5, float("nan")])
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
    chosen = arm_of("rated").choose(rated(pool), fraction, Settings(seed=shuffle.randint(0, 9)))
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
        return kept_ids(arm_of("rated").choose(table, 0.4, Settings(seed=seed)))

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
    reasons = arm_of("deita").choose(table, 0.3, Settings())["reason"].to_pylist()
    assert reasons[1] == reasons[4] == "its embedding is like a kept sample's" and reasons[9] == "score below the cut"


# --- by utility -------------------------------------------------------------------------------------------------------


def scored(p_clean: list[float], seed: int = 0) -> pa.Table:
    """A score table with these shares of anchors that a sample is like; its utilities in no order of theirs."""
    count, rng = len(p_clean), np.random.default_rng(seed)
    utility = rng.permutation(np.linspace(-1.0, 2.0, count))
    columns = {"utility": utility, "utility/sum": utility, "toxic": utility < -0.9, "task": ["sum"] * count}
    sketch = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=4 * count)), 4)
    return pa.table({"id": [f"{place:04d}" for place in range(count)], **columns, "p_clean": p_clean, "sketch": sketch})


@pytest.mark.parametrize("name", ["one-step", "lookahead"])
@pytest.mark.parametrize("strategy", ["top", "quota", "draw", "spread", "cover"])
def test_an_arm_without_a_strategys_name_follows_the_settings(name, strategy):
    table, told = scored([0.5] * 60), Select(strategy=strategy, clean_below=0.0)
    assert choose(name, table, 0.3, select=told).equals(choose(f"{name}-{strategy}", table, 0.3, select=told))
    other = Select(strategy="top" if strategy != "top" else "draw", clean_below=0.0)
    assert choose(f"{name}-{strategy}", table, 0.3, select=other).equals(choose(name, table, 0.3, select=told))


def test_only_one_step_has_utilities_by_task_to_vote_with():
    assert "one-step-vote" in arms() and "lookahead-vote" not in arms()


def test_what_utility_ranks_nests():
    table, told = scored([0.5] * 50), Select(strategy="top", clean_below=0.0)
    narrow, wide = (kept_ids(choose("lookahead", table, share, select=told)) for share in (0.2, 0.6))
    assert (len(narrow), len(wide)) == (10, 30) and wide[:10] == narrow


@settings(max_examples=60)
@given(
    steps=st.lists(st.integers(1, 11), min_size=1, max_size=60),
    purity=st.sampled_from([0.3, 0.5, 0.85, 1.0]),
    arm=st.sampled_from([name for name, arm in arms().items() if arm.utility]),
)
def test_pure_keeps_as_many_as_are_expected_to_be_right(steps, purity, arm):
    table = scored([step / 11 for step in steps])
    size = len(
        kept_ids(choose(arm, table, Subset.parse(f"{arm}-{PURE}").share, select=Select(purity=purity, clean_below=0)))
    )
    ranked = table.sort_by([("utility", "descending"), ("id", "ascending")])
    pure = np.flatnonzero(purities(ranked["p_clean"].to_numpy()) >= purity)
    harmless = len(table) - pc.sum(table["toxic"]).as_py()
    assert size == min(1 + max(pure, default=0), harmless), "the most that are pure enough, and no toxic one"


def test_of_a_pool_that_is_told_apart_pure_keeps_about_what_is_right():
    """600 right samples, whose p_clean is uniform, rank above 400 wrong ones, which are like no anchor."""
    rng = np.random.default_rng(3)
    p = np.concatenate([(1 + rng.integers(0, 101, 600)) / 101.0, np.full(400, 1 / 101)]).clip(max=1.0)
    table = scored(list(p))
    table = table.set_column(1, "utility", pa.array(np.linspace(2.0, -1.0, 1000)))
    names = kept_ids(choose("lookahead-top", table, None, select=Select(purity=0.85, clean_below=0.0)))
    right = sum(int(name) < 600 for name in names) / len(names)
    assert right == pytest.approx(0.85, abs=0.05)


def test_scores_that_tell_no_purity_are_refused_with_the_remedy():
    with pytest.raises(DataError, match=r"no p_clean\): name a fraction of the pool, such as 0\.2"):
        choose("lookahead", scored([0.5] * 9).drop_columns("p_clean"), None)


def test_arms_by_utility_warn_of_a_clean_pool_and_no_others():
    table = scored([1.0] * 60).append_column("utility_relative", pa.array(np.ones(60)))
    for name, arm in arms().items():
        told = arm.warn(table, Settings(select=Select(clean_below=0.5)))
        assert bool(told) == arm.utility, name


def test_a_score_table_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.parquet is no score table: the file is missing; make one with"):
        read_scores(tmp_path / "nothing.parquet")
    (tmp_path / "note.parquet").write_text("a note")
    with pytest.raises(DataError, match=r"note\.parquet is no score table \("):
        read_scores(tmp_path / "note.parquet")
