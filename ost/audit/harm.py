"""The harm audit: how well the scores tell wrong answers from right ones, where the truth is known.

The truth is a table of its own and no column of the pool: beside this audit, only the ceilings of `ost/arms` read it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from ost.errors import DataError


def audit(
    utility: np.ndarray,
    toxic: np.ndarray,
    wrong: np.ndarray,
    selections: Mapping[str, np.ndarray],
    tasks: Sequence[str] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare scores and selections with the known truth; the result holds plain Python values, ready for JSON.

    `utility` (N,) float64, not finite where the sample was quarantined. `toxic` (N,) bool: flagged as doing harm.
    `wrong` (N,) bool: the truth. `selections`: arm → (N,) bool, what the arm keeps. `tasks` (N,): kind of question.

    - `samples`: N; `quarantined`: how many of them have no finite utility. The next five leave those out.
    - `wrong_share`: share that is wrong; `flagged`: how many are toxic.
    - `precision`: share of the flagged that is wrong; `recall`: share of the wrong that is flagged.
    - `auroc`: chance that a wrong sample has a lower utility than a right one, ties counting half (AUROC of −utility).
    - `purity`: arm → share of what it keeps that is right; over all that it keeps, for it trains on all of that.
    - `by_task`, where `tasks` is given: the same, less the purity, task by task.

    A share of nothing is None, and so is the AUROC where all samples are right or all are wrong.
    Raises DataError where an array's shape isn't that of `utility`.
    """
    utility = np.asarray(utility, dtype=np.float64)
    toxic, wrong = _mask("toxic", toxic, utility), _mask("wrong", wrong, utility)
    kept = {arm: _mask(f"the selection of arm {arm!r}", mask, utility) for arm, mask in selections.items()}
    result = _detection(utility, toxic, wrong)
    result["purity"] = {arm: _share(~wrong[mask]) for arm, mask in kept.items()}
    if tasks is not None:
        names = _aligned("tasks", np.asarray(tasks), utility)
        masks = {str(name): names == name for name in np.unique(names)}
        result["by_task"] = {name: _detection(utility[own], toxic[own], wrong[own]) for name, own in masks.items()}
    return result


def _detection(utility: np.ndarray, toxic: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    """What utility and flag say about the truth, among the samples with a finite utility."""
    scored = np.isfinite(utility)
    value, flag, bad = utility[scored], toxic[scored], wrong[scored]
    both = bad.any() and not bad.all()
    return {
        "samples": len(utility),
        "quarantined": int((~scored).sum()),
        "wrong_share": _share(bad),
        "flagged": int(flag.sum()),
        "precision": _share(bad[flag]),
        "recall": _share(flag[bad]),
        "auroc": float(roc_auc_score(bad, -value)) if both else None,
    }


def _share(mask: np.ndarray) -> float | None:
    """Share of a mask that is true; None for an empty mask."""
    return float(mask.mean()) if len(mask) else None


def _mask(name: str, values: np.ndarray, utility: np.ndarray) -> np.ndarray:
    """`values` as bool, of the same shape as `utility`."""
    values = np.asarray(values)
    if values.dtype != bool:
        raise DataError(f"{name} must be a bool mask, one entry a sample; found dtype {values.dtype}")
    return _aligned(name, values, utility)


def _aligned(name: str, values: np.ndarray, utility: np.ndarray) -> np.ndarray:
    if values.shape != utility.shape or utility.ndim != 1:
        raise DataError(
            f"{name} has shape {values.shape} and utility {utility.shape}; give one entry a sample, in the pool's order"
        )
    return values
