"""Purity: how many of the ranked samples are right, as the scores tell, and so which part of them to choose among."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import isotonic_regression

from ost.errors import DataError
from ost.selection.signal import may_claim, signal_of
from ost.settings import Select

BREADTH = 3
"""Where the scores tell no purity, the part is this many times the subset, if so many have a positive utility."""
LIKE_ANCHORS = 0.3
"""p_clean above which all samples count as right when the pool's share of them is estimated: Storey's λ."""


def harmless(scores: pa.Table) -> pa.Table:
    """The samples that are not toxic; all of them where the scores cannot tell (see `Signal`)."""
    return scores.filter(pc.invert(scores["toxic"])) if may_claim(scores) else scores


def part_of(ranked: pa.Table, size: int, pool: int, settings: Select) -> tuple[int, float | None]:
    """How many samples, the best first, a subset of `size` is chosen among, and the expected share of right ones.

    `select.among` of the `pool` samples; where that is null, as many as have the expected purity `select.purity`; where
    the scores have no `p_clean`, BREADTH times the subset, none of a negative utility while others last. Never fewer
    than the subset, nor more than are not toxic. The share is None without `p_clean`, and where the scores cannot tell
    (see `Signal`).
    """
    usable, found = harmless(ranked), purities_of(ranked)
    if found is not None and len(found) < len(ranked):
        found = None
    if settings.among is not None:
        count = round(settings.among * pool)
    elif found is not None:
        count = _pure(found, settings.purity)
    else:
        count = min(BREADTH * size, pc.sum(pc.greater(usable["utility"], 0)).as_py() or 0)
    count = min(max(size, count), len(usable))
    return count, float(found[count - 1]) if count and found is not None and may_claim(ranked) else None


def pure_size(ranked: pa.Table, purity: float) -> int:
    """How many of the ranked samples, the best first, have the expected share `purity` of right ones, at least one.

    Raises DataError where the scores have no `p_clean` to tell it from, or cannot tell right from wrong.
    """
    if not may_claim(ranked):
        raise DataError(f"{signal_of(ranked).warnings[0]}; or name a fraction of the pool, such as 0.2")
    found = purities_of(ranked)
    if found is None:
        raise DataError("these scores tell no purity (they have no p_clean): name a fraction of the pool, such as 0.2")
    return max(1, _pure(found, purity))


def is_clean(scores: pa.Table, settings: Select) -> bool:
    """Whether the pool shows no harm: of the samples that are tested a smaller share than `clean_below` is toxic.

    Where the scores tell how many of the pool are like trusted samples, the share `purity` must be as well: with few
    anchors, or few steps, no test finds harm. Never by one step without a standard error (`transposed`), which is too
    blunt to tell. Scores that cannot tell right from wrong show no harm either, and that says nothing: see `may_claim`.
    """
    known = scores.column_names
    tested = "utility_relative" in known or ("utility_se" in known and scores["utility_se"].null_count < len(scores))
    own = scores.filter(pc.is_valid(scores["toxic_q"])) if "toxic_q" in known else scores
    if not tested or not len(own) or pc.mean(own["toxic"].cast(pa.float64())).as_py() >= settings.clean_below:
        return False
    expected = purities_of(scores)
    return expected is None or bool(expected[-1] >= settings.purity)


def _pure(purities: np.ndarray, purity: float) -> int:
    return int(np.flatnonzero(purities >= purity).max(initial=-1)) + 1


def purities_of(scores: pa.Table) -> np.ndarray | None:
    """`purities` of the samples that have a `p_clean`; None where none has."""
    p = _known(scores)
    return purities(p) if len(p) else None


def p_right_of(scores: pa.Table) -> np.ndarray | None:
    """`p_right` (n,) of the n scores; None where one has no `p_clean`."""
    p = _known(scores)
    return p_right(p) if len(p) == len(scores) > 0 else None


def purities(p: np.ndarray) -> np.ndarray:
    """Expected share of right samples among the first k of n ranked ones, (n,) for k = 1 … n, from their p_clean (n,).

    That of right samples is uniform. So π₀ n of the pool are right, with π₀ = (#{p > λ} + 1) / ((1 − λ) n) (Storey
    2002), (1 − t) π₀ n of those with p > t, and of those with the same p as many as its step to the next lower one is
    wide. With A anchors p has A + 1 steps: λ is the last one up to LIKE_ANCHORS, and the share is known to about
    1 / √A. It is too high by as many wrong samples as lie above λ: an upper bound where scores tell right from wrong
    badly.
    """
    shares, at, _ = _right_shares(p)
    return np.minimum(1.0, np.cumsum(shares[at]) / np.arange(1, len(p) + 1))


def p_right(p: np.ndarray) -> np.ndarray:
    """Probability that each of n samples is right, (n,), from their p_clean (n,).

    One less the local false-discovery rate (Efron 2001): of the samples with the same p the expected share of right
    ones, counted as for `purities`, made to rise with p by isotonic regression.
    """
    shares, at, counts = _right_shares(p)
    return np.clip(isotonic_regression(shares, weights=counts).x, 0, 1)[at]


def _right_shares(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each level of p: how many right samples are expected, for one that is there; where each sample stands among
    the levels, and how many stand at each."""
    levels, at, counts = np.unique(p, return_inverse=True, return_counts=True)
    low = levels[levels <= LIKE_ANCHORS].max(initial=0.0)
    right = min(len(p), (np.sum(p > low) + 1) / (1 - low))
    steps = np.diff(levels[:-1], prepend=0.0, append=1.0)
    return right * steps / counts, at, counts


def _known(scores: pa.Table) -> np.ndarray:
    """Each finite p_clean, in the table's order."""
    p = scores["p_clean"].to_numpy() if "p_clean" in scores.column_names else np.empty(0)
    return p[np.isfinite(p)]
