"""The audit against references that share no code with it: Mann–Whitney's U, scikit-learn, counting by hand."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import precision_score, recall_score

from ost.audit.harm import audit
from ost.errors import DataError

# Few distinct values, so that ties are common, and NaN for quarantined samples.
ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0, np.nan]), st.booleans(), st.booleans(), st.booleans()),
    min_size=1,
    max_size=60,
)


def columns(rows):
    utility, toxic, wrong, kept = zip(*rows, strict=True)
    return np.array(utility), np.array(toxic), np.array(wrong), np.array(kept)


@settings(max_examples=80)
@given(ROWS)
def test_auroc_is_mann_whitney(rows):
    utility, toxic, wrong, kept = columns(rows)
    bad, good = utility[wrong & ~np.isnan(utility)], utility[~wrong & ~np.isnan(utility)]
    assume(len(bad) and len(good))
    u = mannwhitneyu(good, bad).statistic
    got = audit(utility, toxic, wrong, {"ost": kept})["auroc"]
    assert got == pytest.approx(u / (len(bad) * len(good))), "wrong sign of utility, or quarantined samples counted"


@settings(max_examples=80)
@given(ROWS)
def test_precision_recall_and_purity(rows):
    utility, toxic, wrong, kept = columns(rows)
    got = audit(utility, toxic, wrong, {"ost": kept})
    seen = ~np.isnan(utility)
    assume(seen.any())
    precision = precision_score(wrong[seen], toxic[seen], zero_division=np.nan)
    recall = recall_score(wrong[seen], toxic[seen], zero_division=np.nan)
    for value, reference in ((got["precision"], precision), (got["recall"], recall)):
        assert (value is None) == np.isnan(reference)
        assert value is None or value == pytest.approx(reference)
    chosen = [w for w, k in zip(wrong.tolist(), kept.tolist(), strict=True) if k]
    assert got["purity"]["ost"] == (pytest.approx(chosen.count(False) / len(chosen)) if chosen else None)
    assert got["samples"] == len(rows)
    assert got["quarantined"] == sum(np.isnan(row[0]) for row in rows)
    assert got["flagged"] == sum(t and not np.isnan(u) for u, t, _, _ in rows)
    json.dumps(got, allow_nan=False)


def test_a_score_that_knows_the_truth_scores_one():
    wrong = np.array([True, False, True, False])
    got = audit(np.where(wrong, -1.0, 1.0), wrong, wrong, {"ost": ~wrong, "full": np.ones(4, bool)})
    assert (got["auroc"], got["precision"], got["recall"], got["wrong_share"]) == (1.0, 1.0, 1.0, 0.5)
    assert got["purity"] == {"ost": 1.0, "full": 0.5}


def test_degenerate_pools_give_none():
    none, every = np.zeros(3, bool), np.ones(3, bool)
    right = audit(np.arange(3.0), none, none, {"ost": none})
    assert [right[key] for key in ("precision", "recall", "auroc")] == [None, None, None]
    assert right["purity"]["ost"] is None
    assert audit(np.arange(3.0), every, every, {})["auroc"] is None
    lost = audit(np.full(3, np.nan), every, every, {"full": every})
    assert (lost["quarantined"], lost["wrong_share"], lost["flagged"]) == (3, None, 0)
    assert lost["purity"]["full"] == 0.0, "an arm trains on all that it keeps, scored or not"
    empty = audit(np.zeros(0), none[:0], none[:0], {"ost": none[:0]}, tasks=[])
    assert (empty["samples"], empty["auroc"], empty["by_task"]) == (0, None, {})


def test_by_task_is_the_audit_of_each_task_alone():
    rng = np.random.default_rng(0)
    utility, tasks = rng.normal(size=200), rng.choice(["sum", "product"], size=200)
    toxic, wrong = utility < 0, rng.random(200) < 0.4
    got = audit(utility, toxic, wrong, {}, tasks)["by_task"]
    assert sorted(got) == ["product", "sum"]
    for name, values in got.items():
        own = tasks == name
        alone = audit(utility[own], toxic[own], wrong[own], {})
        assert values == {key: value for key, value in alone.items() if key != "purity"}


@pytest.mark.parametrize("broken", ["toxic", "wrong", "arm 'ost'", "tasks"])
def test_misaligned_arrays_are_named(broken):
    good, short = np.zeros(4, bool), np.zeros(3, bool)
    masks = {name: short if name == broken else good for name in ("toxic", "wrong", "arm 'ost'")}
    tasks = ["sum"] * (3 if broken == "tasks" else 4)
    with pytest.raises(DataError, match=rf"{broken}.*\(3,\).*\(4,\)"):
        audit(np.zeros(4), masks["toxic"], masks["wrong"], {"ost": masks["arm 'ost'"]}, tasks)


def test_indices_instead_of_a_mask_are_refused():
    mask = np.zeros(3, bool)
    with pytest.raises(DataError, match=r"bool mask.*int64"):
        audit(np.zeros(3), mask, mask, {"ost": np.array([0, 2, 1])})
