"""The harm audit of a workspace: scores and selections held against the truth, where it is known."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.plan import Subset
from ost.audit.harm import audit
from ost.audit.turns import audit_turns
from ost.errors import DataError
from ost.selection import kept_ids
from ost.store import read_table


def truth_of(path: Path, ids: list[str]) -> np.ndarray | None:
    """Whether each sample is wrong, (N,) bool; None where nobody knows.

    Raises DataError where the truth leaves some of them out.
    """
    known = _known(path)
    return _wrong(known, ids) if known else None


def _wrong(known: Mapping[str, bool], ids: Sequence[str]) -> np.ndarray:
    missing = [name for name in ids if name not in known]
    if missing:
        raise DataError(
            f"the truth says nothing of {len(missing)} of {len(ids)} samples, such as {missing[0]}: complete it, or "
            "set data.truth=null"
        )
    return np.array([known[name] for name in ids])


def _known(path: Path) -> dict[str, bool]:
    """Id → whether the sample is wrong; empty where nobody knows, or nothing has been ingested yet."""
    if not path.exists():
        return {}
    truth = read_table(path)
    return dict(zip(truth["id"].to_pylist(), truth["wrong"].to_pylist(), strict=True))


def audit_scores(scores: pa.Table, wrong: np.ndarray, selections: Mapping[str, pa.Table]) -> dict:
    """See `ost.audit.harm.audit`; `selections`: name → table over the same samples in the same order.

    The AUROC is that of what ranks: `utility_relative` where the scores have it.
    """
    kept = {name: pc.is_valid(table["rank"]).to_numpy() for name, table in selections.items()}
    ranking = "utility_relative" if "utility_relative" in scores.column_names else "utility"
    value, toxic, tasks = (scores[name].to_numpy() for name in (ranking, "toxic", "task"))
    return audit(value, toxic, wrong, kept, tasks=tasks)


def audit_subsets(root: Path, subsets: Collection[Subset]) -> dict | None:
    """What a seed's workspace knows of harm; None where the truth is not known.

    - `wrong_share` of the pool; `purity`: subset → share of what it keeps of the pool that is right, None of nothing.
    - `scores`: score table → how well its ranking and toxic flag tell it: `auroc`, `flagged`, `precision`, `recall`. Of
      those that the subsets were chosen by: others that lie there may be of another pool or setting.
    - `turns`, where it is known of each: see `ost.audit.turns.audit_turns`.
    """
    known = _known(root / "data/truth.parquet")
    if not known:
        return None
    kept_tables = {subset.key: read_table(root / f"selections/{subset.key}.parquet") for subset in subsets}
    kept = {key: kept_ids(table) for key, table in kept_tables.items()}
    used = sorted({subset.arm.by.name for subset in subsets if subset.arm.utility}, reverse=True)
    tables = {name: read_table(root / f"scores/{name}.parquet") for name in used}
    return audit_by_turn(root, kept_tables, used) | {
        "wrong_share": float(np.mean(list(known.values()))),
        "purity": {key: 1 - float(np.mean(_wrong(known, ids))) if ids else None for key, ids in kept.items()},
        "scores": {name: _told_by(table, known) for name, table in tables.items()},
    }


def audit_by_turn(root: Path, selections: Mapping[str, pa.Table], scores: Sequence[str]) -> dict:
    """`turns`: what is known of harm by turns, see `audit_turns`; nothing where nobody knows of turns.

    `selections`: name → table; `scores`: names of score tables, of which some may have a table of turns beside them.
    """
    truth = root / "data/truth-turns.parquet"
    if not truth.exists():
        return {}
    files = {name: root / f"scores/{name}-turns.parquet" for name in scores}
    tables = {name: read_table(file) for name, file in files.items() if file.exists()}
    return {"turns": audit_turns(read_table(truth), tables, selections)}


def _told_by(scores: pa.Table, known: Mapping[str, bool]) -> dict:
    whole = audit_scores(scores, _wrong(known, scores["id"].to_pylist()), {})
    return {name: whole[name] for name in ("auroc", "flagged", "precision", "recall")}
