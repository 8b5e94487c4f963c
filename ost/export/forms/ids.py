"""A list of the chosen: the user's own ids and places, with ranks, scores and reasons.

JSON lines rather than Parquet: a person reads them as they are, and an id keeps its type, 17 beside "a".
"""

import json
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.errors import DataError
from ost.export.forms.form import Form, Written
from ost.export.manifest import Manifest
from ost.export.selected import Selected
from ost.types import Progress

SCORES = ("utility", "utility_relative", "p_clean")
"""Columns of a score table that are told, where it has them."""


class Ids(Form):
    name, place = "ids", 5
    data = "ids.jsonl"

    def write(
        self,
        selected: Selected,
        folder: Path,
        out: Path,
        progress: Progress,
        *,
        scores: pa.Table | None,
        everything: bool,
        **options,
    ) -> Written:
        """Write the selected samples, the best rank first, and behind them, if `everything`, the others of the pool.

        Raises DataError where the selection names samples that the pool has not.
        """
        selection = selected.selection
        listed = selection.filter(pc.is_valid(selection["rank"])).sort_by("rank")
        if everything:
            listed = pa.concat_tables([listed, selection.filter(pc.is_null(selection["rank"]))])
        table = _table(listed, selected, scores)
        with (folder / self.data).open("w", encoding="utf-8", newline="\n") as file:
            for batch in table.to_batches(max_chunksize=4096):
                for line in batch.to_pylist():
                    line["own_id"] = line["own_id"] and json.loads(line["own_id"])
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        Manifest(self.name, len(table), selected.longest).write(folder, selected, {}, {})
        return Written(len(table))

    def listed(self, folder: Path) -> Collection[str]:
        with (folder / self.data).open(encoding="utf-8") as file:
            return {line["id"] for line in map(json.loads, file) if line["rank"] is not None}


def _table(listed: pa.Table, selected: Selected, scores: pa.Table | None) -> pa.Table:
    """Rows of a selection with what the pool and the scores have of them: null where a score is missing, or is NaN."""
    facts = selected.pool.table(("id", "own_id", "file", "position"))
    places = pc.index_in(listed["id"], facts["id"].combine_chunks())
    if places.null_count:
        raise DataError(
            f"{places.null_count:,} of {len(listed):,} samples of the selection are not in {selected.pool.path}: it "
            "was made from another pool, or before the pool changed; select anew"
        )
    facts = facts.take(places)
    told = {"rank": listed["rank"]} | {name: facts[name] for name in ("own_id", "file", "position", "id")}
    if scores is not None:
        places = pc.index_in(listed["id"], scores["id"].combine_chunks())
        for name in (name for name in SCORES if name in scores.column_names):
            score = scores[name].take(places)
            told[name] = pc.if_else(pc.is_nan(score), pa.scalar(None, score.type), score)
    own = {name: listed[name] for name in ("reason", "masked") if name in listed.column_names}
    return pa.table(told | own)
