"""What every way to choose shares: how many samples a fraction is, a seeded draw, and the selection table."""

import random
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ost.errors import ConfigError

KEPT = "kept"
NOT_DRAWN = "not drawn"
PURITY = b"expected_purity"
"""Key of the expected purity in the metadata of a selection table."""


def size_of(table: pa.Table, fraction: float) -> int:
    """How many of a table's samples a fraction is, at least one; raises ConfigError for one outside (0, 1]."""
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"a fraction lies in (0, 1]; found {fraction}. For the top 20 % give 0.2")
    return max(1, round(fraction * len(table)))


def shuffled(ids: Iterable[str], seed: int) -> list[str]:
    """The ids in an order that the seed alone decides, whatever order they come in."""
    found = sorted(ids)
    random.Random(seed).shuffle(found)
    return found


def selection_table(
    ids: Sequence[str],
    kept: Sequence[str],
    reason: str,
    exceptions: Mapping[str, str] | None = None,
    purity: float | None = None,
) -> pa.Table:
    """N rows `id, rank, reason` in the order of `ids`; rank counts from 1 and is null where left out.

    `kept`: ids, the best first. `reason`: why the others are left out; `exceptions`: id → another reason. `purity`: see
    `expected_purity`.
    """
    ranks, others = {name: rank for rank, name in enumerate(kept, start=1)}, exceptions or {}
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "rank": pa.array([ranks.get(name) for name in ids], pa.int32()),
            "reason": pa.array([KEPT if name in ranks else others.get(name, reason) for name in ids]),
        },
        metadata=None if purity is None else {PURITY: repr(purity)},
    )


def left_out_too(selection: pa.Table, reasons: Mapping[str, str]) -> pa.Table:
    """A selection without some samples that it keeps, id → why; those behind them move up."""
    if not reasons:
        return selection
    ids = selection["id"].to_pylist()
    before = dict(zip(ids, selection["reason"].to_pylist(), strict=True)) | reasons
    kept = [name for name in kept_ids(selection) if name not in reasons]
    return selection_table(ids, kept, "", before, expected_purity(selection))


def kept_ids(selection: pa.Table) -> list[str]:
    """Ids of the kept samples, best rank first."""
    return selection.filter(pc.is_valid(selection["rank"])).sort_by("rank")["id"].to_pylist()


def expected_purity(selection: pa.Table) -> float | None:
    """Expected share of right samples in the part of the pool that a selection was chosen from.

    An estimate from the scores alone (see `purities`), so an upper bound where they tell right from wrong badly. None
    where they have no `p_clean`, or the strategy doesn't choose from a part.
    """
    found = (selection.schema.metadata or {}).get(PURITY)
    return None if found is None else float(found)
