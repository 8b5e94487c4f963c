"""Standard errors and toxicity against simulations whose truth is known, and against written-out formulas."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from specimens import drawn

from ost.data import Sample
from ost.scoring.anchors import Partition, divide
from ost.scoring.statistics import Resolved, degrees_of_freedom, resolve, toxic_q, without_own


def cells_of(tasks: str, sizes: list[int]) -> Partition:
    """Cells of the given sizes; one letter a cell names its task."""
    ends = np.cumsum([0, *sizes])
    members = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(ends))
    return Partition(members, tuple(tasks), tuple(tasks[:at].count(task) for at, task in enumerate(tasks)))


def named(tasks: list[str]) -> list[Sample]:
    anchors = drawn("anchors", len(tasks))
    return [Sample(s.images, s.messages, task) for s, task in zip(anchors, tasks, strict=True)]


# --- cells ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
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

FREEDOM = 16


def simulated(seed: int, harmful: float, count: int = 4000) -> tuple[Resolved, np.ndarray, np.ndarray]:
    """A pool with a harmful share, its utilities measured with errors of their own; trusted samples; who is harmful.

    The harmless have utilities from zero up, so that a good many lie where a test can be wrong about them.
    """
    rng = np.random.default_rng(seed)

    def harmless(size: int) -> np.ndarray:
        return np.where(rng.random(size) < 0.3, 0.0, np.abs(rng.normal(1, 1, size)))

    wrong = rng.random(count) < harmful
    truth = np.where(wrong, -np.abs(rng.normal(1.5, 1, count)), harmless(count))
    spread = rng.uniform(0.1, 0.5, count)
    error = spread * np.sqrt(rng.chisquare(FREEDOM, count) / FREEDOM)
    trusted = harmless(100) + rng.uniform(0.1, 0.5, 100) * rng.normal(size=100)
    return Resolved(truth + spread * rng.normal(size=count), error, {}), trusted, wrong


@pytest.mark.parametrize("harmful", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("freedom", [0, FREEDOM])
def test_the_false_discovery_rate_is_held(harmful, freedom):
    shares, found = [], []
    for seed in range(40):
        pool, trusted, wrong = simulated(seed, harmful)
        flag = toxic_q(pool, freedom, trusted) <= 0.1
        shares.append((~wrong[flag]).mean() if flag.any() else 0.0)
        found.append(flag[wrong].mean() if harmful else 0.0)
    assert np.mean(shares) < 0.1 + 2 * np.std(shares) / np.sqrt(40), "harmless samples are called toxic too often"
    assert not harmful or np.mean(found) > 0.3, "harm that is plain to see is not named"


def test_q_is_benjamini_and_hochbergs_of_a_t_test():
    pool, _, _ = simulated(3, 0.3, count=50)
    p = stats.t.cdf(pool.utility / pool.error, FREEDOM)
    order = np.argsort(p)
    steps = p[order] * 50 / np.arange(1, 51)
    expected = np.minimum.accumulate(steps[::-1])[::-1]
    np.testing.assert_allclose(toxic_q(pool, FREEDOM, None)[order], np.minimum(expected, 1))


def test_a_sample_without_a_gradient_is_not_toxic():
    """Utility and error are both zero where a sample has nothing to teach."""
    q = toxic_q(Resolved(np.array([0.0, 0.0, -1.0, 2.0]), np.array([0.0, 1.0, 0.0, 0.0]), {}), FREEDOM, None)
    assert (q[[0, 1, 3]] > 0.5).all() and q[2] == 0


def test_without_an_error_a_sample_like_the_anchors_is_not_toxic():
    """Trusted samples can have negative utility too."""
    rng = np.random.default_rng(0)
    trusted, nothing = rng.normal(-1, 0.1, 200), np.full(1000, np.nan)
    assert (toxic_q(Resolved(rng.normal(-1, 0.1, 1000), nothing, {}), 0, trusted) > 0.1).all()
    assert (toxic_q(Resolved(rng.normal(-2, 0.1, 1000), nothing, {}), 0, trusted) <= 0.1).all()


@pytest.mark.parametrize("freedom", [0, FREEDOM])
def test_the_quarantined_have_no_q_and_count_for_nothing(freedom):
    pool, trusted, _ = simulated(5, 0.4, count=400)
    broken = Resolved(np.append(pool.utility, [np.nan] * 50), np.append(pool.error, [np.nan] * 50), {})
    q = toxic_q(broken, freedom, trusted)
    assert np.isnan(q[400:]).all()
    np.testing.assert_array_equal(q[:400], toxic_q(pool, freedom, trusted))
    assert np.isnan(toxic_q(Resolved(np.array([np.nan]), np.array([np.nan]), {}), freedom, trusted)).all()


def test_an_anchor_is_judged_by_the_others():
    """An anchor's utility for its own fold holds its own length squared: left in, every anchor would look helpful."""
    cells = cells_of("aabb", [2, 1, 1, 1])
    by_cell = np.arange(20.0).reshape(5, 4) ** 2
    found = without_own(by_cell, cells)
    assert found[[0, 3]] == pytest.approx([(by_cell[at, 1] + by_cell[at, 3]) / 2 for at in (0, 3)])
    assert found[2] == pytest.approx((2 * by_cell[2, 0] + by_cell[2, 2]) / 3)
    alone = cells_of("a", [5])
    assert without_own(by_cell[:, :1], alone) == pytest.approx(by_cell[:, 0]), "with one fold there are no others"
