"""What the utilities of N samples for D anchor cells say together: means, standard errors, and tested harm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ost.scoring.anchors import Partition
from ost.selection.signal import Signal


@dataclass(frozen=True)
class Resolved:
    """Utilities summed up over the anchors."""

    utility: np.ndarray
    """(N,) for all anchors."""
    error: np.ndarray
    """(N,) its standard error over anchors; NaN where one cell holds them all."""
    groups: dict[str, np.ndarray]
    """Task → (N,) utility for that task's anchors."""


def resolve(by_cell: np.ndarray, partition: Partition) -> Resolved:
    """Sum up utilities (N, D) by the cells' shares; each task's utility likewise, over its own cells.

    The standard error is that of a stratified sample: within a task the F folds' utilities are F draws, so the variance
    of the task's mean is Σ_f s_f² (u_f − ū)² · F / (F − 1), s_f being the fold's share of the task; tasks add up by the
    square of their share. Tasks with a single fold are taken as one stratum. Where each cell's utility comes from the
    anchors outside of it, the standard error is the delete-a-group jackknife's, F − 1 times that (Kott, 2001).
    """
    groups = {task: _mean(by_cell, partition, _of(partition, task)) for task in partition.groups}
    return Resolved(by_cell @ partition.shares, _standard_error(by_cell, partition), groups)


def degrees_of_freedom(partition: Partition) -> int:
    """Degrees of freedom of the standard error: folds less tasks."""
    return sum(len(stratum) - 1 for stratum in _strata(partition))


def toxic_q(found: Resolved, freedom: int, trusted: np.ndarray | None, tested: np.ndarray | bool = True) -> np.ndarray:
    """False-discovery rate (N,) at which each sample counts as toxic (Benjamini and Hochberg, 1995).

    NaN where the utility is, and for samples that are not `tested`, (N,) bool.

    What is tested is that the utility is not negative: by a one-sided t-test over the anchors' folds, with `freedom`
    degrees. Where all anchors are one cell nothing is known of their disagreement, and what is tested is that the
    utility is like that of `trusted` samples: a conformal p-value against the anchors' own utilities, (A,), each for
    the anchors outside its fold (Bates et al. 2023, arXiv:2104.08279). No such p-value is below 1 / (A + 1), so with
    few anchors nothing is named unless much of the pool is toxic.
    """
    tested = np.isfinite(found.utility) & tested
    utility, q = found.utility[tested], np.full(len(tested), np.nan)
    if freedom > 0:
        p = stats.t.cdf(utility / np.maximum(found.error[tested], np.finfo(float).tiny), freedom)
    else:
        p = conformal_p(utility, trusted)
    if len(p):
        q[tested] = stats.false_discovery_control(p)
    return q


def conformal_p(values: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """Conformal p-values (N,) of values against those of trusted samples, (A,): uniform where they are alike."""
    known = np.sort(trusted[np.isfinite(trusted)])
    return (1 + np.searchsorted(known, values, side="right")) / (1 + len(known))


def without_own(by_cell: np.ndarray, partition: Partition) -> np.ndarray:
    """Utility (A,) of each anchor for the anchors outside its fold, from the anchors' utilities (A, D)."""
    utility, number = np.empty(len(by_cell)), np.array(partition.folds)
    for index, members in enumerate(partition.members):
        others = np.flatnonzero(number != number[index])
        utility[list(members)] = _mean(by_cell[list(members)], partition, others if len(others) else [index])
    return utility


def signal(knowing: np.ndarray, ranking: np.ndarray, gains: np.ndarray | None = None) -> Signal:
    """How well n held-out anchors are told from the same with other answers.

    knowing (n,): by how much the loss after the steps on the others is lower with an anchor's own answer, in nats;
    ranking (n,): by how much it ranks above itself with the other one. Pairs that are not finite are left out. gains
    (A,): loss reduction of all anchors while they were left out, in nats, where steps were taken.
    """
    usable = np.isfinite(knowing) & np.isfinite(ranking)
    knowing, ranking = knowing[usable], ranking[usable]
    p = float(stats.wilcoxon(ranking, alternative="greater").pvalue) if ranking.any() else 1.0
    found = Signal(len(ranking), _positive(knowing), _positive(ranking), p)
    if gains is None:
        return found
    return replace(found, gain=float(np.mean(gains)), gain_se=float(stats.sem(gains)) if len(gains) > 1 else 0.0)


def _positive(differences: np.ndarray) -> float:
    """Share of them that is above zero, zeros counting half; a half of nothing."""
    return float(np.mean((1 + np.sign(differences)) / 2)) if len(differences) else 0.5


def _standard_error(by_cell: np.ndarray, partition: Partition) -> np.ndarray:
    if degrees_of_freedom(partition) == 0:
        return np.full(len(by_cell), np.nan)
    variance = np.zeros(len(by_cell))
    for stratum in _strata(partition):
        count, shares = len(stratum), partition.shares[stratum]
        if count > 1:
            away = by_cell[:, stratum] - _mean(by_cell, partition, stratum)[:, None]
            variance += (shares**2 * away**2).sum(axis=1) * count / (count - 1)
    return np.sqrt(variance) * (len(partition.members) - 1 if partition.left_out else 1)


def _strata(partition: Partition) -> list[list[int]]:
    """Cells of each task; the tasks with one cell together."""
    by_task = [_of(partition, task) for task in sorted(set(partition.tasks))]
    single = [stratum[0] for stratum in by_task if len(stratum) == 1]
    return [stratum for stratum in by_task if len(stratum) > 1] + ([single] if single else [])


def _of(partition: Partition, task: str) -> list[int]:
    return [index for index, own in enumerate(partition.tasks) if own == task]


def _mean(by_cell: np.ndarray, partition: Partition, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    shares = partition.shares[indices]
    return by_cell[:, indices] @ (shares / shares.sum())
