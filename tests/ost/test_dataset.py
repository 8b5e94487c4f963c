"""Sample sets on disk: what is written is read back, by place, by id, in order, whatever was left out afterwards."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.data import Dataset, Facts, Joined, Sample, ShardWriter, chat, write_samples
from ost.data import shards as shards_module
from ost.data.dataset import LISTING, write_listing
from ost.errors import DataError


def sample(number: int, size: int = 0) -> Sample:
    images = (np.random.default_rng(number).bytes(size),) if size else ()
    return Sample(images, chat(f"question {number}", str(number), images=len(images)), f"task {number % 3}")


def facts(number: int) -> Facts:
    return Facts(number, 1, ((number, 2),), "a.jsonl", number, f'"{number}"', {"relevance": number % 5})


def stored(folder, samples, left_out=()) -> Dataset:
    """A folder of shards; `left_out`: places of the written samples that are not in the set."""
    with ShardWriter(folder) as writer:
        for number, one in enumerate(samples):
            writer.add(one, facts(number))
    rows, start = {}, 0
    for shard in writer.shards:
        own = [place - start for place in left_out if start <= place < start + shard.samples]
        rows |= {shard.file: own} if own else {}
        start += shard.samples
    write_listing(folder, writer.shards, rows)
    return Dataset(folder)


@pytest.fixture
def small_limits(monkeypatch):
    """Shards and row groups of a few samples."""
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 5_000)
    monkeypatch.setattr(shards_module, "GROUP_BYTES", 2_000)


@settings(max_examples=25)
@given(data=st.data())
def test_any_place_gives_the_sample_that_was_written(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "SHARD_BYTES", 3_000)
        patch.setattr(shards_module, "GROUP_BYTES", 900)
        count = data.draw(st.integers(1, 30))
        left_out = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
        written = [sample(number, size=200) for number in range(count)]
        dataset = stored(tmp_path_factory.mktemp("set") / "pool", written, sorted(left_out))
    kept = [one for place, one in enumerate(written) if place not in left_out]
    places = data.draw(st.lists(st.integers(0, len(kept) - 1), max_size=8))
    assert len(dataset) == len(kept) and list(dataset) == kept and dataset[:] == kept
    assert dataset.at(places) == [kept[place] for place in places]
    assert dataset.ids() == [one.id for one in kept]
    assert dataset.table(["tokens", "position"])["position"].to_pylist() == [
        place for place in range(count) if place not in left_out
    ]
    wanted = [kept[place].id for place in places]
    subset = dataset.subset(wanted)
    assert subset.ids() == wanted and list(subset) == dataset.take(wanted) == [kept[place] for place in places]


def test_shards_and_row_groups_are_cut_by_bytes(tmp_path, small_limits):
    written = [sample(number, size=500) for number in range(40)]
    dataset = stored(tmp_path / "pool", written)
    files = sorted((tmp_path / "pool").glob("*.parquet"))
    assert len(files) > 3 and list(dataset) == written
    for file in files:
        metadata = pq.read_metadata(file)
        assert metadata.num_rows <= 10
        assert all(metadata.row_group(at).num_rows <= 4 for at in range(metadata.num_row_groups))


def test_a_shard_is_named_by_what_it_holds(tmp_path):
    written = [sample(number, size=50) for number in range(5)]
    for folder in ("a", "b"):
        stored(tmp_path / folder, written)
    stored(tmp_path / "c", written[::-1])
    names = {folder: sorted(file.name for file in (tmp_path / folder).glob("*.parquet")) for folder in "abc"}
    assert names["a"] == names["b"] != names["c"]
    (name,) = names["a"]
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_shard_that_an_error_ends_is_not_published(tmp_path):
    def break_off() -> None:
        with ShardWriter(tmp_path) as writer:
            for number in range(3000):
                writer.add(sample(number), facts(number))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_optional_keys_of_messages_are_kept_where_they_say_something(tmp_path):
    question, answer = chat("why?", "so", images=0)
    plain = Sample((), (question, answer))
    told = Sample((), (question, answer | {"loss": False}, question, answer | {"reasoning_content": "hm"}))
    assert list(stored(tmp_path / "pool", [plain, told])) == [plain, told]
    assert plain.learned == (1,) and told.learned == (3,)
    assert Sample((), (question, answer | {"loss": True})).id == plain.id != Sample((), told.messages[:2]).id


def test_samples_are_read_a_row_group_at_a_time(tmp_path, monkeypatch, small_limits):
    dataset = stored(tmp_path / "pool", [sample(number, size=500) for number in range(40)])
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, group, **rest: read.append(group) or whole(file, group, **rest)
    )
    dataset.at([17, 3, 18, 17])
    assert len(read) <= 3
    dataset.at([17, 3])
    assert len(read) <= 3, "what was read lately is not read again"


def test_two_sequences_behind_each_other(tmp_path):
    first, second = (
        stored(tmp_path / name, [sample(at) for at in places]) for name, places in (("a", (0, 1)), ("b", (2,)))
    )
    joined = Joined(first, second)
    assert list(joined) == [sample(0), sample(1), sample(2)] == joined[:] and joined[-1] == sample(2)
    assert joined.ids() == [one.id for one in joined] and joined.__getitems__([2, 0]) == [sample(2), sample(0)]
    with pytest.raises(IndexError):
        joined[3]


def test_what_is_no_sample_set_says_so(tmp_path):
    with pytest.raises(DataError, match=LISTING):
        Dataset(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="no Parquet file"):
        Dataset(tmp_path / "x.parquet")
    dataset = Dataset(write_samples(tmp_path / "y.parquet", [sample(1)]))
    with pytest.raises(DataError, match="has no column tokens"):
        dataset.table(["id", "tokens"])
    with pytest.raises(DataError, match=r"1 of 1 samples are not in y\.parquet, such as nobody"):
        dataset.take(["nobody"])
