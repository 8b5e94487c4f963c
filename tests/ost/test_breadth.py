"""Breadth against pools whose clusters are planted, SciPy's entropy, and draws that share no code with it."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

import ost.audit.breadth
import ost.selection.clusters
from ost.audit.breadth import FEWEST, NARROW, Breadth, breadths, narrow_warnings
from ost.errors import DataError
from ost.selection.clusters import clusters
from ost.store import lists


def planted(kinds=10, each=100, noise=0.0, width=16, seed=0):
    """A score table of `kinds` planted clusters in turn, and the kind of each sample.

    Lengths of sketches differ, by powers of two: without noise the directions of a kind are the same to the bit.
    """
    rng = np.random.default_rng(seed)
    kind = np.tile(np.arange(kinds), each)
    centres = np.linalg.qr(rng.normal(size=(width, width)))[0][:kinds].astype(np.float16)
    sketches = centres[kind] + noise * rng.normal(size=(len(kind), width))
    return table(sketches * 2.0 ** rng.integers(0, 9, (len(kind), 1))), kind


def table(sketches):
    return pa.table({"task": ["sum"] * len(sketches), "sketch": lists(np.asarray(sketches, dtype=np.float16))})


def drawn_from(size, count, seed=1):
    mask = np.zeros(size, bool)
    mask[np.random.default_rng(seed).permutation(size)[:count]] = True
    return mask


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_planted_clusters_are_found(noise):
    """√(2 · 50) is the ten that are planted; whatever the lengths of the sketches, their direction tells."""
    scores, kind = planted(each=5, noise=noise)
    labels = clusters(scores)
    assert len(set(zip(labels, kind, strict=True))) == len(set(labels)) == 10


def test_one_planted_cluster_of_ten_is_narrow_and_a_draw_is_not():
    """More clusters are looked for than there are; those that no sample is in do not count."""
    scores, kind = planted()
    found = breadths(scores, {"one": kind == 3, "two": kind < 2, "drawn": drawn_from(1000, 200), "all": kind >= 0})
    for arm, reach, effective in (("one", 0.1, 1.0), ("two", 0.2, 2.0), ("all", 1.0, 10.0)):
        assert found[arm].reach == pytest.approx(reach), arm
        assert found[arm].effective == pytest.approx(effective), arm
        assert found[arm].clusters == 10
    assert found["drawn"].reach == 1.0
    assert found["drawn"].ratio == pytest.approx(1, abs=0.05)
    assert found["all"].ratio == pytest.approx(1), "a draw of as many as there are is the pool"
    assert found["one"].ratio == pytest.approx(0.1, abs=0.01)
    assert [found[arm].narrow for arm in ("one", "two", "drawn", "all")] == [True, True, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_random_draws_are_as_broad_as_a_random_draw(seed):
    """In a pool without any planted kind, at every size: small draws reach less, and so does what they are held to."""
    scores = table(np.random.default_rng(seed).normal(size=(2000, 16)))
    sizes = {f"{count}": drawn_from(2000, count, seed + 10) for count in (40, 200, 1000)}
    found = breadths(scores, sizes, seed)
    assert [one.ratio for one in found.values()] == pytest.approx([1, 1, 1], abs=0.12)
    effective = [one.effective for one in found.values()]
    assert effective == sorted(effective)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-1, 5), st.booleans()), min_size=1, max_size=80))
def test_figures_are_scipys_and_counts_by_hand(rows):
    labels, kept = (np.array(column) for column in zip(*rows, strict=True))
    assume((labels >= 0).any())
    scores = pa.table({"task": ["sum"] * len(rows)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ost.audit.breadth, "clusters", lambda scores, seed: labels)
        found = breadths(scores, {"ost": kept})["ost"]
    own = Counter(labels[kept & (labels >= 0)].tolist())
    pool = set(labels[labels >= 0].tolist())
    assert found.clusters == len(pool)
    assert found.reach == pytest.approx(len(own) / len(pool))
    assert found.effective == pytest.approx(np.exp(entropy(list(own.values()))) if own else 0)
    assert found.effective <= len(own) + 1e-9
    json.dumps(found.to_json(), allow_nan=False)


def test_the_yardstick_is_the_mean_of_draws_without_replacement():
    scores, _ = planted(kinds=16, each=50)
    labels, rng = clusters(scores), np.random.default_rng(5)
    draws = [np.bincount(rng.choice(labels, 20, replace=False)) for _ in range(2000)]
    expected = np.mean([np.exp(entropy(counts)) for counts in draws])
    assert breadths(scores, {"ost": drawn_from(800, 20)})["ost"].drawn == pytest.approx(expected, rel=0.03)


def test_mix_by_task_stands_beside_the_pools():
    scores = pa.table({"task": ["sum"] * 6 + ["product"] * 3 + [""]})
    kept = np.array([True] * 2 + [False] * 4 + [True] * 2 + [False] * 2)
    found = breadths(scores, {"ost": kept, "none": np.zeros(10, bool)})
    assert found["ost"].mix == {"sum": (0.5, 0.6), "product": (0.5, 0.3), "": (0.0, 0.1)}
    assert found["none"].mix == {"sum": (0.0, 0.6), "product": (0.0, 0.3), "": (0.0, 0.1)}
    assert found["ost"].to_json()["mix"]["product"] == {"kept": 0.5, "pool": 0.3}


def test_without_sketches_the_mix_is_still_told():
    found = breadths(pa.table({"task": ["sum", "product"]}), {"ost": np.array([True, False])})["ost"]
    assert (found.samples, found.clusters, found.reach, found.effective, found.drawn, found.ratio) == (1, *[None] * 5)
    assert found.mix == {"product": (0.0, 0.5), "sum": (1.0, 0.5)}
    assert not found.narrow


def test_what_has_no_sketch_is_in_no_cluster():
    scores, kind = planted(each=5)
    sketches = scores["sketch"].to_pylist()
    sketches[0], sketches[1], sketches[2], sketches[3] = [0.0] * 16, [np.nan] * 16, [np.inf] + [1.0] * 15, None
    broken = pa.table({"task": scores["task"], "sketch": pa.array(sketches, scores["sketch"].type)})
    labels = clusters(broken)
    assert labels[:4].tolist() == [-1] * 4
    assert (labels[4:] >= 0).all()
    found = breadths(broken, {"whole": kind >= 0, "broken": np.arange(50) < 4})
    assert found["whole"].reach == 1.0
    assert (found["broken"].samples, found["broken"].effective, found["broken"].ratio) == (4, 0.0, None)
    for empty in ([None] * 50, [[0.0] * 16] * 50):
        nothing = pa.table({"task": scores["task"], "sketch": pa.array(empty, scores["sketch"].type)})
        assert clusters(nothing) is None


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_tiny_pools(size):
    scores = table(np.eye(16)[:size])
    found = breadths(scores, {"all": np.ones(size, bool), "none": np.zeros(size, bool)})
    assert (found["all"].reach, found["all"].ratio) == (1.0, pytest.approx(1))
    assert 1 <= found["all"].clusters <= max(1, size - 1), "fewer clusters than samples"
    assert (found["none"].reach, found["none"].effective, found["none"].ratio) == (0.0, 0.0, None)


def test_of_a_large_pool_a_part_is_clustered_and_the_rest_dealt(monkeypatch):
    scores, kind = planted(each=30, noise=0.01)
    whole = breadths(scores, {"one": kind == 3})["one"]
    monkeypatch.setattr(ost.selection.clusters, "FIT", 70)
    part = breadths(scores, {"one": kind == 3})["one"]
    assert (clusters(scores) >= 0).all()
    assert part.ratio < 0.35 and whole.ratio < 0.35


def test_same_seed_same_figures():
    scores = table(np.random.default_rng(3).normal(size=(500, 9)))
    kept = {"ost": drawn_from(500, 100)}
    assert breadths(scores, kept, 4) == breadths(scores, kept, 4)


def test_only_what_is_narrow_is_warned_of_with_what_would_widen_it():
    def of(ratio, samples=400):
        return Breadth(samples, 40, 0.5, 30 * ratio, 30.0, {})

    found = {"OST 20 %": of(0.45), "OST 50 %": of(NARROW), "a handful": of(0.3, FEWEST - 1)}
    (warning,) = narrow_warnings(found, "top")
    assert warning.startswith("OST 20 % is narrow") and "breadth 0.45" in warning
    assert "13.5 effective clusters" in warning and "30.0" in warning
    assert "select.strategy to draw, spread or cover" in warning and "select.among" not in warning
    for strategy in ("draw", "spread", "cover"):
        (warning,) = narrow_warnings(found, strategy)
        assert f"`{strategy}`" in warning and "raise select.among" in warning and "select.strategy" not in warning
    assert narrow_warnings({"OST 20 %": Breadth(400, None, None, None, None, {})}, "top") == []


@pytest.mark.parametrize("kept", [np.array([0, 2, 1]), np.zeros(4, bool)])
def test_what_is_no_mask_is_refused(kept):
    with pytest.raises(DataError, match=r"arm 'ost' must be a bool mask of 3 samples; found"):
        breadths(table(np.eye(3)), {"ost": kept})
