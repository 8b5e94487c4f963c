"""Shards on several devices: the bytes of one process, every free device at work, and no waiting for a busy one."""

import dataclasses
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow as pa
import pytest
from specimens import drawn

from ost.data import write_samples
from ost.execution.device import Devices
from ost.scoring import Job, score_file
from ost.scoring.shards import run_here
from ost.settings import Lookahead, Score
from ost.store import read_table, write_table
from tasks.settings import Compute
from tasks.slots import Slots
from tasks.stages import slot_shards
from tasks.stages.ray_shards import runner
from tasks.stages.slot_shards import SlotRunner

TWO = Devices(("cpu-0", "cpu-1"), False)
SETTINGS = Score(lookahead=Lookahead(steps=2), shard_size=8, checks=0, folds=2)


@pytest.fixture(scope="module")
def job(tmp_path_factory, proxy) -> Job:
    folder = tmp_path_factory.mktemp("slots")
    write_samples(folder / "pool.parquet", drawn("pool", 48, 2))
    write_samples(folder / "anchors.parquet", drawn("anchors", 8))
    proxy.save(folder / "proxy")
    return Job(folder / "pool.parquet", folder / "anchors.parquet", folder / "proxy", folder / "store", SETTINGS)


@pytest.fixture
def slots(tmp_path) -> Slots:
    """Two, of which this process has one, as a stage that scores does."""
    slots = Slots(tmp_path, TWO)
    slots.take_free()
    return slots


@pytest.fixture
def scored_here(monkeypatch) -> list[int]:
    """Sizes of the shards that this process scores itself."""
    sizes, score_shard = [], slot_shards.score_shard

    def score(*asked) -> int:
        sizes.append(score_shard(*asked))
        return sizes[-1]

    monkeypatch.setattr(slot_shards, "score_shard", score)
    return sizes


def stored(path: Path) -> dict[str, pa.Table]:
    """All rows below a folder, without the seconds that they took."""
    return {file.name: read_table(file).drop_columns("seconds") for file in path.rglob("*.parquet")}


def test_two_devices_leave_the_rows_of_one(job, slots, tmp_path, scored_here, monkeypatch):
    here = score_file(dataclasses.replace(job, store=tmp_path / "here"))
    there, walked, counting = dataclasses.replace(job, store=tmp_path / "there"), set(), slot_shards.score_shard

    def second(*asked) -> int:
        """Scores in this process once the other has published a shard, so that both have a part in it."""
        deadline = time.monotonic() + 120
        while not list(there.store.rglob("*.parquet")):
            assert time.monotonic() < deadline, "the second device does nothing"
            time.sleep(0.05)
        walked.update((file.stat().st_ino, file.stat().st_mtime_ns) for file in there.store.rglob("walk.safetensors"))
        return counting(*asked)

    monkeypatch.setattr(slot_shards, "score_shard", second)
    sizes: list[int] = []
    scored = score_file(there, SlotRunner(slots), lambda done, total, note="": sizes.append(done))
    assert stored(there.store) == stored(tmp_path / "here") and len(stored(there.store)) == 6
    for name, one in {"one": here, "two": scored}.items():
        write_table(tmp_path / f"{name}.parquet", one.table)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert sizes[-6:] == [8, 16, 24, 32, 40, 48], "progress moves as shards are published"
    assert 0 < len(scored_here) < 6
    assert len(walked) == 1, "each process trains on the anchors for itself"
    assert slots.take_free() == "cpu-1", "the helper's slot is not given back"


def test_a_device_that_is_busy_is_not_waited_for(job, slots, tmp_path, scored_here):
    assert slots.take_free() == "cpu-1"
    job = dataclasses.replace(job, store=tmp_path / "store")
    assert list(SlotRunner(slots)(job, [range(8), range(8, 12)])) == [8, 4] == scored_here


def test_a_process_that_is_killed_ends_the_run_and_frees_its_device(job, slots, tmp_path, monkeypatch):
    job = dataclasses.replace(job, store=tmp_path / "store")
    monkeypatch.setattr(slot_shards, "_score", _killed)
    monkeypatch.setattr(slot_shards, "score_shard", lambda *asked: time.sleep(1) or 1)
    with pytest.raises(BrokenProcessPool):
        list(SlotRunner(slots)(job, [[0]] * 120))
    assert slots.take_free() == "cpu-1"


def _killed(*asked) -> int:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_device_needs_no_other_process(slots, tmp_path):
    one = Slots(tmp_path / "one", Devices(("cpu-0",), False))
    assert isinstance(runner(Compute(), slots), SlotRunner)
    assert runner(Compute(), one) is run_here and runner(Compute()) is run_here


def test_nothing_to_score_starts_nothing(job, slots):
    assert list(SlotRunner(slots)(job, [])) == []
