"""The arms that know the truth, on a pool of which ingestion let a part through."""

import pyarrow as pa
import pytest
from specimens import drawn

from ost.data import write_samples
from ost.errors import DataError
from ost.selection import kept_ids
from ost.store import read_table, write_table
from tasks.stages import execute


@pytest.fixture
def truth(folder):
    """A pool of six, and a function that says of some ids whether they are wrong."""
    pool = drawn("pool", 6)
    write_samples(folder / "data/pool.parquet", pool)

    def tell(wrong: dict[str, bool]) -> list[str]:
        table = pa.table({"id": list(wrong), "wrong": list(wrong.values())})
        write_table(folder / "data/truth.parquet", table)
        return [sample.id for sample in pool]

    return tell


def test_a_ceiling_keeps_what_is_right_and_was_let_through(folder, truth):
    ids = truth({})
    truth({name: index % 2 == 0 for index, name in enumerate(ids)} | {"quarantined": False})
    assert execute("rate-truth", folder)["metrics"]["wrong"] == 0.5
    for arm, count in (("oracle", 3), ("clean-50", 3), ("clean-20", 1)):
        execute(f"choose@{arm}", folder)
        kept = kept_ids(read_table(folder / f"selections/{arm}.parquet"))
        assert len(kept) == count and set(kept) <= set(ids[1::2])


def test_a_truth_that_leaves_samples_out_is_refused(folder, truth):
    ids = truth({})
    truth(dict.fromkeys(ids[:4], False))
    with pytest.raises(DataError, match=r"says nothing of 2 of 6 samples, .* data.truth=null"):
        execute("rate-truth", folder)
