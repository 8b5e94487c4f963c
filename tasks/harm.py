"""The harm audit of a workspace: scores and selections held against the truth, where it is known."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.audit import audit
from ost.store import read_table


def truth_of(path: Path, ids: list[str]) -> np.ndarray | None:
    """Whether each sample is wrong, (N,) bool; None where nobody knows."""
    truth = read_table(path)
    known = dict(zip(truth["id"].to_pylist(), truth["wrong"].to_pylist(), strict=True))
    return np.array([known[name] for name in ids]) if known else None


def audit_scores(scores: pa.Table, wrong: np.ndarray, selections: Mapping[str, pa.Table]) -> dict:
    """See `ost.audit.audit`; `selections`: name → table over the same samples in the same order."""
    kept = {name: pc.is_valid(table["rank"]).to_numpy() for name, table in selections.items()}
    utility, toxic, tasks = (scores[name].to_numpy() for name in ("utility", "toxic", "task"))
    return audit(utility, toxic, wrong, kept, tasks=tasks)


def purity(selection: pa.Table, wrong: np.ndarray) -> float | None:
    """Share of what a selection keeps that is right."""
    kept = pc.is_valid(selection["rank"]).to_numpy()
    return float((~wrong[kept]).mean()) if kept.any() else None


def audit_trials(root: Path, subsets: Collection[str]) -> dict | None:
    """What a seed's workspace knows of harm: purity of each subset, and how well utility and toxic flag tell it.

    None where the truth is not known.
    """
    tables = {key: path for key in subsets if (path := root / f"selections/{key}.parquet").exists()}
    selections = {key: read_table(path) for key, path in tables.items()}
    ids = next((table["id"].to_pylist() for table in selections.values()), [])
    wrong = truth_of(root / "data/truth.parquet", ids)
    if wrong is None:
        return None
    found = {"wrong_share": float(wrong.mean()), "purity": {key: purity(t, wrong) for key, t in selections.items()}}
    scored = root / "scores/utility.parquet"
    if scored.exists():
        whole = audit_scores(read_table(scored), wrong, {})
        found |= {name: whole[name] for name in ("auroc", "flagged", "precision", "recall")}
    return found
