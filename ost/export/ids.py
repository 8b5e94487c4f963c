"""A list of the chosen: the user's own ids and places, with ranks, scores and reasons.

JSON lines rather than Parquet: a person reads them as they are, and an id keeps its type, 17 beside "a".
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.data import Dataset
from ost.errors import DataError
from ost.export.kept import Kept

DATA = "ids.jsonl"
SCORES = ("utility", "utility_relative", "p_clean")
"""Columns of a score table that are told, where it has them."""

_AT_ONCE = 4096


def write_ids(
    folder: Path, kept: Kept, selection: pa.Table, scores: pa.Table | None = None, everything: bool = False
) -> int:
    """Write the kept samples, the best rank first, and behind them, if `everything`, the others in the pool's order.

    Gives how many lines were written. Raises DataError where the selection names samples that the pool has not.
    """
    listed = selection.filter(pc.is_valid(selection["rank"])).sort_by("rank")
    if everything:
        listed = pa.concat_tables([listed, selection.filter(pc.is_null(selection["rank"]))])
    facts = _matched(listed, kept.pool.table(("id", "own_id", "file", "position")), kept.pool)
    told = [name for name in SCORES if scores is not None and name in scores.column_names]
    scored = _matched(listed, scores.select(["id", *told]), None) if told else None
    with (folder / DATA).open("w", encoding="utf-8", newline="\n") as file:
        for start in range(0, len(listed), _AT_ONCE):
            parts = [table.slice(start, _AT_ONCE) for table in (listed, facts, scored) if table is not None]
            for rows in zip(*(part.to_pylist() for part in parts), strict=True):
                file.write(json.dumps(_line(*rows), ensure_ascii=False) + "\n")
    return len(listed)


def read_ids(folder: Path) -> Iterator[dict]:
    """The lines of such a list."""
    with (folder / DATA).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _matched(listed: pa.Table, table: pa.Table, pool: Dataset | None) -> pa.Table:
    """The table's rows in the order of the list; nulls where it has none, unless it is the pool's."""
    places = pc.index_in(listed["id"], table["id"].combine_chunks())
    if pool is not None and places.null_count:
        raise DataError(
            f"{places.null_count:,} of {len(listed):,} samples of the selection are not in {pool.path}: it was made "
            "from another pool, or before the pool changed; select anew"
        )
    return table.take(places)


def _line(chosen: dict, fact: dict, score: dict | None = None) -> dict:
    own = fact["own_id"]
    line = {
        "rank": chosen["rank"],
        "own_id": own and json.loads(own),
        "file": fact["file"],
        "position": fact["position"],
        "id": chosen["id"],
    }
    for name, value in (score or {}).items():
        if name != "id":
            line[name] = None if value is None or math.isnan(value) else value
    return line | {"reason": chosen["reason"]}
