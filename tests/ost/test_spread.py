"""`spread` against the filter written out; neighbourhoods as a partition that keeps near-duplicates together."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ost.selection import KEPT, kept_ids, select, vectors
from ost.selection.spread import SURPLUS, TOLERANCE, spread
from ost.selection.strategies import BELOW, REPEATED
from ost.selection.vectors import neighbourhoods, unit

STEP = 2.0 ** np.floor(np.log2(TOLERANCE))
"""Width of the interval of cosines from −1 to 1 that bisection ends with."""


def cosines(sketches: np.ndarray) -> np.ndarray:
    unit = sketches / np.linalg.norm(sketches.astype(np.float64), axis=1, keepdims=True)
    return unit @ unit.T


def filtered(cosine: np.ndarray, threshold: float) -> list[int]:
    """Best first, what reaches the threshold with a kept one is passed over."""
    kept: list[int] = []
    for index in range(len(cosine)):
        if all(cosine[index, other] < threshold for other in kept):
            kept.append(index)
    return kept


def kinds_of(rng: np.random.Generator, kinds: int, each: int, width: int = 16, noise: float = 0.1):
    """Sketches of so many kinds in random order, and the kind of each."""
    kind = rng.permutation(np.repeat(np.arange(kinds), each))
    return (rng.normal(size=(kinds, width))[kind] + noise * rng.normal(size=(len(kind), width))).astype("f4"), kind


@settings(max_examples=60)
@given(count=st.integers(2, 70), share=st.floats(0.05, 0.95), width=st.sampled_from([2, 6, 30]), seed=st.integers(0))
def test_it_is_the_filter_at_the_least_threshold_that_fills(count, share, width, seed):
    sketches = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    size = max(1, round(share * count))
    kept, threshold = spread(sketches, size)
    cosine, lower = cosines(sketches), threshold - STEP
    assume(min(np.abs(cosine - cut).min() for cut in (threshold, lower)) > 1e-6)  # else float32 cannot tell
    assert len(kept) == size and (np.diff(kept) > 0).all()
    assume(threshold < 1)
    expected = filtered(cosine, threshold)
    assert kept.tolist() == expected[:size]
    assert cosine[np.ix_(kept, kept)][~np.eye(size, dtype=bool)].max(initial=-1) < threshold, "near-duplicates are kept"
    least = len(filtered(cosine, lower)) < size or lower <= -1
    assert least or len(expected) <= (1 + SURPLUS) * size, "a lower threshold fills the subset too"


def test_of_each_kind_the_best_is_kept():
    sketches, kind = kinds_of(np.random.default_rng(0), kinds=8, each=10)
    kept, threshold = spread(sketches, 8)
    assert sorted(kind[kept]) == list(range(8))
    assert kept.tolist() == sorted(np.unique(kind, return_index=True)[1]), "a worse one of the same kind was kept"
    assert threshold < 0.9


def test_where_too_many_are_the_same_the_best_fill():
    sketches = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    kept, threshold = spread(sketches, 5)
    assert kept.tolist() == [0, 1, 2, 3, 5] and threshold == 1
    assert spread(sketches, 3)[0].tolist() == [0, 3, 5]


def test_whole_parts_and_silent_samples():
    sketches = np.random.default_rng(2).normal(size=(12, 4)).astype(np.float16)
    sketches[3], sketches[5, 0] = 0, np.inf
    for size in (12, 40):
        assert spread(sketches, size)[0].tolist() == list(range(12))
    assert {3, 5} <= set(spread(sketches, 9)[0].tolist()), "what has no direction is like nothing"
    assert spread(np.empty((0, 1), np.float16), 3)[0].tolist() == []


def test_reasons_tell_the_repeated_from_those_below_the_cut():
    sketches, _ = kinds_of(np.random.default_rng(4), kinds=20, each=5)
    scores = pa.table({
        "id": [f"{index:03d}" for index in range(100)],
        "utility": np.linspace(1, 0.1, 100),
        "toxic": [False] * 100,
        "sketch": pa.FixedSizeListArray.from_arrays(pa.array(sketches.astype(np.float16).ravel()), 16),
    })  # fmt: skip
    chosen = select(scores, 0.15, "spread", among=0.5)
    kept, reasons = kept_ids(chosen), chosen["reason"].to_pylist()
    last = int(kept[-1])
    assert kept == [f"{index:03d}" for index in spread(sketches[:50].astype(np.float16), 15)[0]]
    assert set(reasons[: last + 1]) == {KEPT, REPEATED} and set(reasons[last + 1 :]) == {BELOW}


# --- divided ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(count=st.integers(1, 200), part=st.integers(2, 40), share=st.sampled_from([1 / 2, 1 / 3]), same=st.booleans())
def test_neighbourhoods_are_a_partition(count, part, share, same):
    sketches = np.random.default_rng(count).normal(size=(count, 5)) if not same else np.ones((count, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "PART", part)
        found = neighbourhoods(unit(sketches), share)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    assert all(len(rows) <= part and (np.diff(rows) > 0).all() for rows in found)


def test_what_is_alike_comes_into_the_same_neighbourhood(monkeypatch):
    sketches, kind = kinds_of(np.random.default_rng(5), kinds=100, each=10)
    monkeypatch.setattr(vectors, "PART", 150)
    places = np.empty(1000, dtype=int)
    for place, rows in enumerate(neighbourhoods(unit(sketches))):
        places[rows] = place
    together = np.mean([len(set(places[kind == one])) == 1 for one in range(100)])
    assert together > 0.7, f"only {together:.0%} of the kinds lie in one part"


@pytest.mark.parametrize("size", [100, 300])
def test_divided_it_keeps_few_near_duplicates(size, monkeypatch):
    sketches, _ = kinds_of(np.random.default_rng(6), kinds=100, each=10, noise=0.3)
    whole, threshold = spread(sketches, size)
    monkeypatch.setattr(vectors, "PART", 150)
    kept, other = spread(sketches, size)
    near = cosines(sketches)[np.ix_(kept, kept)] - 2 * np.eye(size)
    assert other == pytest.approx(threshold, abs=0.1)
    assert np.mean(near.max(axis=1) >= threshold) < 0.1, "near-duplicates lie in different parts"
    assert len(set(kept) & set(whole)) > 0.85 * size
