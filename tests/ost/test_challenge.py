"""The paired bootstrap that a champion is replaced by."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ost.comparison.challenge import confidence_of, falls, paired_gain
from ost.errors import DataError


def verdicts(seed: int, count: int, champion: float, better: float) -> tuple[np.ndarray, np.ndarray]:
    """Of a champion with this accuracy, and of a challenger that mends a share of its mistakes and loses nothing."""
    rng = np.random.default_rng(seed)
    own = rng.random(count) < champion
    return own, own | (rng.random(count) < better)


def test_the_interval_is_that_of_the_paired_normal():
    champion, challenger = verdicts(0, 2000, 0.5, 0.1)
    found = paired_gain(champion, challenger)
    difference = challenger.astype(float) - champion
    reach = 1.96 * difference.std() / np.sqrt(len(difference))
    assert found.mean == pytest.approx(difference.mean())
    assert found.interval == pytest.approx((difference.mean() - reach, difference.mean() + reach), abs=0.002)
    assert found.is_proven and (found.champion, found.samples) == (champion.mean(), 2000)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_swapping_the_two_turns_the_interval_round(seed):
    champion, challenger = verdicts(seed, 300, 0.6, 0.05)
    there, back = paired_gain(champion, challenger), paired_gain(challenger, champion)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=0.01)
    assert not back.is_proven


def test_equals_are_promoted_as_seldom_as_the_confidence_says():
    rng = np.random.default_rng(0)
    runs = [paired_gain(rng.random(400) < 0.5, rng.random(400) < 0.5, resamples=500).is_proven for _ in range(300)]
    assert np.mean(runs) < 0.06, "2.5 % are expected"


def test_pairing_sees_what_two_separate_intervals_would_not():
    """Two points on 600 samples: far inside either model's own interval of ±4 points."""
    champion = np.arange(600) % 2 == 0
    challenger = champion.copy()
    challenger[1:24:2] = True
    assert paired_gain(champion, challenger).is_proven


def test_the_same_answers_are_no_gain_and_the_result_is_reproducible():
    champion, challenger = verdicts(3, 200, 0.5, 0.02)
    assert paired_gain(champion, champion).interval == (0.0, 0.0)
    assert paired_gain(champion, challenger) == paired_gain(champion, challenger)


def test_verdicts_of_other_samples_are_refused():
    for one, other in (([True], [True, False]), ([], [])):
        with pytest.raises(DataError, match="cannot be paired"):
            paired_gain(one, other)


def test_samples_that_share_an_image_are_drawn_together():
    """A gain on three of eight images, each with fifty questions, is no proof; on as many samples it would be one."""
    images = np.arange(400) // 50
    champion = np.arange(400) % 2 == 0
    challenger = champion | (images < 3)
    alone, together = paired_gain(champion, challenger), paired_gain(champion, challenger, clusters=images)
    assert alone.mean == together.mean == pytest.approx(3 / 16) and alone.samples == together.samples == 400
    assert alone.interval[0] > 0.14 and together.interval[0] < 0.08
    spread = np.array([0.5] * 3 + [0.0] * 5).std(ddof=1) / np.sqrt(8)  # of the eight images' own gains
    reach = stats.t.ppf(0.975, 7) * spread
    assert together.interval == pytest.approx((together.mean - reach, together.mean + reach), abs=0.02)


def test_clusters_of_one_sample_change_nothing_and_one_cluster_proves_nothing():
    champion, challenger = verdicts(0, 200, 0.5, 0.1)
    assert paired_gain(champion, challenger, clusters=np.arange(200)) == paired_gain(champion, challenger)
    assert not paired_gain(champion, challenger, clusters=np.zeros(200, int)).is_proven
    better = paired_gain([0.0] * 20, [0.5] * 20, clusters=[0] * 20)
    assert better.mean == 0.5 and not better.is_proven, "one image, twenty times the same gain"


@pytest.mark.parametrize(("mended", "proven"), [(4, False), (5, False), (6, True), (9, True)])
def test_as_many_samples_as_may_fall_on_one_side_by_chance_are_no_proof(mended, proven):
    """Heads only: 1 in 32 with five coins, 1 in 64 with six; at 95 % two-sided 1 in 40 is allowed."""
    champion = np.zeros(300, bool)
    assert paired_gain(champion, np.arange(300) < mended).is_proven == proven


def test_a_champions_challenges_share_what_the_confidence_leaves():
    spent = [1 - confidence_of(number, 0.95) for number in range(1, 2000)]
    assert spent[0] == pytest.approx(0.05 * 0.608, rel=1e-3) and 0.0499 < sum(spent) < 0.05
    assert spent == sorted(spent, reverse=True)


def loses_within_a_year(rng: np.random.Generator, differ: float, confidence: Callable[[int], float]) -> bool:
    """Whether a champion loses its place in 52 weeks in which no challenger is better; `differ`: share of answers."""
    chance = rng.random(200)
    champion = rng.random(200) < chance
    for week in range(1, 53):
        challenger = np.where(rng.random(200) < differ, rng.random(200) < chance, champion)
        if challenger.sum() > champion.sum() and paired_gain(champion, challenger, confidence(week), 20).is_proven:
            return True
    return False


@pytest.mark.parametrize("differ", [0.5, 0.05])
def test_equals_that_challenge_every_week_seldom_win_in_a_year(differ):
    """Two-sided intervals at 95 % allow one side half of 5 %."""
    rng, years = np.random.default_rng(0), 150
    lost = [loses_within_a_year(rng, differ, lambda week: confidence_of(week, 0.95)) for _ in range(years)]
    assert np.mean(lost) <= 0.05


def test_weeks_that_know_nothing_of_each_other_lose_the_champion_by_chance():
    rng = np.random.default_rng(0)
    assert np.mean([loses_within_a_year(rng, 0.5, lambda week: 0.95) for _ in range(40)]) > 0.25


def test_a_task_in_which_the_challenger_is_worse_is_named_though_the_whole_is_better():
    tasks = ["sum"] * 200 + ["chart"] * 100 + ["map"] * 100
    champion = np.arange(400) % 2 == 0
    challenger = champion | (np.arange(400) < 200)  # all sums right
    challenger[200:240] = False  # and some charts lost
    assert paired_gain(champion, challenger).is_proven
    worse = falls(champion, challenger, tasks)
    assert list(worse) == ["chart"] and worse["chart"].mean == pytest.approx(-0.2)
    assert worse["chart"].confidence == pytest.approx(1 - 0.05 / 3), "three tasks are looked at"
    assert falls(champion, champion, tasks) == {}


def test_scores_between_right_and_wrong_are_compared_too():
    found = paired_gain([0.3] * 50 + [0.6] * 50, [0.6] * 50 + [0.9] * 50)
    assert found.mean == pytest.approx(0.3) and found.is_proven
