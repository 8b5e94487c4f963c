"""Standard errors and toxicity against simulations whose truth is known, and against written-out formulas."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from specimens import drawn

from ost.data import Sample
from ost.scoring.anchors import Cells, divide
from ost.scoring.statistics import degrees_of_freedom, resolve, toxic_q, without_own


def cells_of(tasks: str, sizes: list[int]) -> Cells:
    """Cells of the given sizes; one letter a cell names its task."""
    ends = np.cumsum([0, *sizes])
    members = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(ends))
    return Cells(members, tuple(tasks), tuple(tasks[:at].count(task) for at, task in enumerate(tasks)))


def named(tasks: list[str]) -> list[Sample]:
    anchors = drawn("anchors", len(tasks))
    return [Sample(s.images, s.messages, task) for s, task in zip(anchors, tasks, strict=True)]


# --- cells ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(tasks=st.lists(st.sampled_from("abc"), min_size=1, max_size=30), folds=st.integers(2, 6), data=st.data())
def test_cells_divide_the_anchors(tasks, folds, data):
    anchors = named(tasks)
    cells = divide(anchors, "folds", folds)
    assert sorted(index for cell in cells.members for index in cell) == list(range(len(tasks))), "each anchor once"
    for members, task in zip(cells.members, cells.tasks, strict=True):
        assert {anchors[index].task for index in members} == {task}
    for task in set(tasks):
        sizes = [len(own) for own, name in zip(cells.members, cells.tasks, strict=True) if name == task]
        assert len(sizes) == min(folds, tasks.count(task)) and max(sizes) - min(sizes) <= 1
    order = data.draw(st.permutations(range(len(tasks))))
    moved = divide([anchors[index] for index in order], "folds", folds)
    assert [{order[index] for index in cell} for cell in moved.members] == [set(cell) for cell in cells.members]


def test_the_coarser_divisions():
    anchors = named(["b", "a", "b", "b"])
    assert divide(anchors, "total", 5).members == ((0, 1, 2, 3),)
    groups = divide(anchors, "groups", 5)
    assert groups.tasks == ("a", "b") and [set(cell) for cell in groups.members] == [{1}, {0, 2, 3}]
    assert groups.groups == ("a", "b") and divide(anchors, "total", 5).groups == ()


# --- means and their errors -------------------------------------------------------------------------------------------


def test_utilities_add_up_by_share():
    cells = cells_of("aab", [1, 3, 4])
    found = resolve(np.array([[8.0, 4.0, 2.0]]), cells)
    assert found.utility[0] == pytest.approx((1 * 8 + 3 * 4 + 4 * 2) / 8)
    assert {task: values[0] for task, values in found.groups.items()} == pytest.approx({"a": 5.0, "b": 2.0})


def test_with_one_anchor_a_cell_the_error_is_the_textbooks():
    values = np.random.default_rng(0).normal(size=(5, 12))
    expected = values.std(axis=1, ddof=1) / np.sqrt(12)
    np.testing.assert_allclose(resolve(values, cells_of("a" * 12, [1] * 12)).error, expected)


def test_strata_leave_the_difference_between_tasks_out():
    rng = np.random.default_rng(1)
    values = np.hstack([rng.normal(size=(4, 6)), 100 + rng.normal(size=(4, 6))])
    expected = np.sqrt(sum((values[:, part].var(axis=1, ddof=1) / 6) / 4 for part in (slice(0, 6), slice(6, 12))))
    cells = cells_of("a" * 6 + "b" * 6, [1] * 12)
    np.testing.assert_allclose(resolve(values, cells).error, expected)
    assert degrees_of_freedom(cells) == 10


def test_the_error_covers_the_truth_as_often_as_it_says():
    """Anchors drawn anew 4,000 times: the 90 % interval holds the true mean nine times in ten."""
    rng, cells = np.random.default_rng(2), cells_of("aaaaabbbb", [3, 3, 3, 2, 2, 7, 7, 7, 6])
    sizes = np.array([len(cell) for cell in cells.members])
    means = np.where(np.array(list(cells.tasks)) == "a", 1.0, -2.0)
    draws = means + rng.normal(size=(4000, 9)) / np.sqrt(sizes)
    found = resolve(draws, cells)
    reach = stats.t.ppf(0.95, degrees_of_freedom(cells)) * found.error
    inside = np.abs(found.utility - means @ cells.shares) <= reach
    assert inside.mean() == pytest.approx(0.90, abs=0.025)


def test_one_cell_says_nothing_of_its_error():
    assert np.isnan(resolve(np.ones((3, 1)), cells_of("a", [5])).error).all()
    lonely = resolve(np.array([[1.0, 3.0]]), cells_of("ab", [1, 1]))
    assert lonely.error[0] == pytest.approx(1.0), "tasks with a single fold are one stratum"


# --- toxicity ---------------------------------------------------------------------------------------------------------


def simulated(seed: int, harmful: float, anchors: int = 100, count: int = 4000, spread: float = 0.3):
    """Utilities of a pool whose harmless part is like the anchors, with errors of known size on top."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(count) < harmful
    truth = np.where(wrong, rng.normal(-2, 1, count), np.abs(rng.normal(1, 1, count)))
    utility = truth + rng.normal(0, spread, count)
    trusted = np.abs(rng.normal(1, 1, anchors)) + rng.normal(0, spread, anchors)
    return utility, np.full(count, spread), trusted, wrong


@pytest.mark.parametrize("harmful", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("freedom", [0, 16])
def test_the_false_discovery_rate_is_held(harmful, freedom):
    shares, found = [], []
    for seed in range(40):
        utility, error, trusted, wrong = simulated(seed, harmful)
        flag = toxic_q(utility, error, freedom, trusted) <= 0.1
        shares.append((~wrong[flag]).mean() if flag.any() else 0.0)
        found.append(flag[wrong].mean() if harmful else 0.0)
    assert np.mean(shares) < 0.1 + 2 * np.std(shares) / np.sqrt(40), "harmless samples are called toxic too often"
    assert not harmful or np.mean(found) > 0.4, "harm that is plain to see is not named"


def test_a_sample_like_the_anchors_is_not_toxic_however_sure_its_sign():
    """Trusted samples can have negative utility too: that alone is no harm."""
    rng = np.random.default_rng(0)
    trusted, pool = rng.normal(-1, 0.1, 200), rng.normal(-1, 0.1, 1000)
    assert (toxic_q(pool, np.full(1000, 1e-3), 16, trusted) > 0.1).all()


def test_a_sample_of_uncertain_sign_is_not_toxic_however_low_it_lies():
    pool, trusted = np.repeat([-1.0, 1.0], [50, 150]), np.full(200, 1.0)
    assert (toxic_q(pool, np.full(200, 0.01), 16, trusted)[:50] <= 0.1).all()
    assert (toxic_q(pool, np.full(200, 1.5), 16, trusted) > 0.1).all()


def test_q_rises_with_utility_and_knows_the_quarantined():
    utility, error, trusted, _ = simulated(5, 0.4)
    utility[::50] = np.nan
    q = toxic_q(utility, error, 0, trusted)
    assert (np.isnan(q) == np.isnan(utility)).all()
    order = np.argsort(utility[~np.isnan(utility)])
    assert (np.diff(q[~np.isnan(q)][order]) >= 0).all()
    assert np.isnan(toxic_q(np.array([np.nan]), np.array([1.0]), 0, trusted)).all()


def test_an_anchor_is_judged_by_the_others():
    """An anchor's utility for its own fold holds its own length squared: left in, every anchor would look helpful."""
    cells = cells_of("aabb", [2, 1, 1, 1])
    by_cell = np.arange(20.0).reshape(5, 4) ** 2
    found = without_own(by_cell, cells)
    assert found[[0, 3]] == pytest.approx([(by_cell[at, 1] + by_cell[at, 3]) / 2 for at in (0, 3)])
    assert found[2] == pytest.approx((2 * by_cell[2, 0] + by_cell[2, 2]) / 3)
    alone = cells_of("a", [5])
    assert without_own(by_cell[:, :1], alone) == pytest.approx(by_cell[:, 0]), "with one fold there are no others"
