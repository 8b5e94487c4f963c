"""The paired bootstrap that a champion is replaced by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.comparison.challenge import paired_gain
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
    reach = np.ptp(together.interval) / 2
    spread = np.array([0.5] * 3 + [0.0] * 5).std() / np.sqrt(8)  # of the eight images' own gains
    assert reach == pytest.approx(1.96 * spread, rel=0.15)


def test_clusters_of_one_sample_change_nothing_and_one_cluster_proves_nothing():
    champion, challenger = verdicts(0, 200, 0.5, 0.1)
    assert paired_gain(champion, challenger, clusters=np.arange(200)) == paired_gain(champion, challenger)
    assert not paired_gain(champion, challenger, clusters=np.zeros(200, int)).is_proven


def test_scores_between_right_and_wrong_are_compared_too():
    found = paired_gain([0.3] * 50 + [0.6] * 50, [0.6] * 50 + [0.9] * 50)
    assert found.mean == pytest.approx(0.3) and found.is_proven
