"""Drift: like samples are no drift, moved ones are, and the limits decide."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ost.audit.drift import measure_drift


def scores(new: np.ndarray, old: np.ndarray, losses: np.ndarray | None = None) -> tuple[pa.Table, pa.ChunkedArray]:
    """A score table of new and old samples, and the ids of the old."""
    utility = np.concatenate([new, old])
    ids = [f"new{i}" for i in range(len(new))] + [f"old{i}" for i in range(len(old))]
    table = pa.table({"id": ids, "utility": utility, "loss": np.zeros(len(ids)) if losses is None else losses})
    return table, pa.chunked_array([ids[len(new) :]])


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_like_samples_are_no_drift(seed, count):
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=2000)
    found = measure_drift(*scores(rng.choice(pool, count, replace=False), pool), 1.0, 1.0)
    assert found.new == count
    assert found.reasons(drift=0.9) == []


def test_a_distance_is_scipys_and_what_chance_explains_is_none():
    rng = np.random.default_rng(0)
    old, moved = rng.normal(size=1000), rng.normal(loc=1.5, size=80)
    found = measure_drift(*scores(moved, old), 1.0, 1.0)
    assert found.distances["utility"] == pytest.approx(stats.ks_2samp(moved, old).statistic)
    assert found.distances["loss"] == 0.0
    (reason,) = found.reasons(drift=0.3)
    assert reason.startswith("the utility of 80 new samples lies 0.") and "recurate.drift is 0.30" in reason
    assert found.reasons(drift=1.0) == []
    few = measure_drift(*scores(moved[:20], old), 1.0, 1.0)
    assert few.distances["utility"] == 0.0, "a handful of odd samples makes no proxy invalid"


def test_losses_are_looked_at_too():
    rng = np.random.default_rng(1)
    losses = np.concatenate([rng.normal(5, 1, 50), rng.normal(1, 1, 500)])
    found = measure_drift(*scores(rng.normal(size=50), rng.normal(size=500), losses), 1.0, 1.0)
    (reason,) = found.reasons()
    assert "the loss of 50 new samples" in reason


def test_a_rise_of_the_anchors_loss_is_measured_against_what_it_was():
    found = measure_drift(*scores(np.empty(0), np.zeros(5)), 1.3, 1.0)
    assert found.new == 0 and found.rise == pytest.approx(0.3)
    (reason,) = found.reasons(anchor_loss_rise=0.2)
    assert "risen by 30%, from 1.000 to 1.300 nats" in reason
    assert found.reasons(anchor_loss_rise=0.31) == []


def test_samples_without_a_finite_score_are_passed_over():
    table, known = scores(np.array([np.nan, np.nan]), np.zeros(5))
    assert measure_drift(table, known, 1.0, 1.0).distances == {"utility": 0.0, "loss": 0.0}
