"""The harm audit by turns: what masking leaves of the wrong ones, and takes of the right, where the truth is known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from ost.errors import DataError
from ost.selection import kept_ids, masks_of


def audit_turns(truth: pa.Table, scores: Mapping[str, pa.Table], selections: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Compare turn scores and masks with the known truth; the result holds plain Python values, ready for JSON.

    truth: a row `id, turn, wrong` a learned turn of the pool. scores: name → its table of turns. selections: name →
    selection table.

    - `wrong_share` of all turns.
    - `auroc`: score → chance that a wrong turn ranks below a right one, ties counting half; None where none is wrong.
    - `purity`: selection → share of the learned turns that is right; None where none is learned.
    - `masked`: selection → how many of its samples' turns are masked; `masked_wrong`: which share of them is wrong, and
      `wrong_masked`: which share of the wrong ones is masked, each None of none. Of selections with masks alone.

    Raises DataError where the truth leaves a scored turn out.
    """
    keys = zip(truth["id"].to_pylist(), truth["turn"].to_pylist(), strict=True)
    wrong = dict(zip(keys, truth["wrong"].to_pylist(), strict=True))
    found: dict[str, Any] = {"wrong_share": _share(list(wrong.values()))}
    found["auroc"] = {name: _auroc(table, wrong) for name, table in scores.items()}
    found |= {name: {} for name in ("purity", "masked", "masked_wrong", "wrong_masked")}
    for name, table in selections.items():
        kept, masks = set(kept_ids(table)), masks_of(table)
        own = {key: bad for key, bad in wrong.items() if key[0] in kept}
        hidden = {key: bad for key, bad in own.items() if key[1] in masks.get(key[0], ())}
        found["purity"][name] = _share([not bad for key, bad in own.items() if key not in hidden])
        if "masked" in table.column_names:
            found["masked"][name] = len(hidden)
            found["masked_wrong"][name] = _share(list(hidden.values()))
            found["wrong_masked"][name] = _share([key in hidden for key, bad in own.items() if bad])
    return found


def _auroc(turns: pa.Table, wrong: Mapping[tuple[str, int], bool]) -> float | None:
    keys = list(zip(turns["id"].to_pylist(), turns["turn"].to_pylist(), strict=True))
    if unknown := [key for key in keys if key not in wrong]:
        name, turn = unknown[0]
        raise DataError(
            f"the truth says nothing of {len(unknown)} of {len(keys)} turns, such as message {turn} of {name}: "
            "complete it, or leave it out"
        )
    ranking = "utility_relative" if "utility_relative" in turns.column_names else "utility"
    values, bad = turns[ranking].to_numpy(), np.array([wrong[key] for key in keys])
    usable = np.isfinite(values)
    both = 0 < bad[usable].sum() < usable.sum()
    return float(roc_auc_score(bad[usable], -values[usable])) if both else None


def _share(values: list[bool]) -> float | None:
    return float(np.mean(values)) if values else None
