"""Devices and slots: never two holders of one, and none that outlives its process."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.errors import ConfigError, ModelError
from ost.execution import device as device_room
from ost.execution.device import Devices, find_devices
from tasks.settings import Compute, parse_params
from tasks.slots import Slots, devices_of, own_device

SPAWN = multiprocessing.get_context("spawn")
TWO = Devices(("cpu-0", "cpu-1"), False)


@pytest.fixture
def accelerators(monkeypatch):
    """Lets torch see so many accelerators, of which the environment names some."""

    def see(count: int, named: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv(device_room.VISIBLE, raising=False)
        if named is not None:
            monkeypatch.setenv(device_room.VISIBLE, named)

    return see


# --- which devices there are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "named", "asked", "found"),
    [
        (0, None, None, ["cpu-0", "cpu-1", "cpu-2"]),
        (0, None, 2, ["cpu-0", "cpu-1"]),
        (0, None, (0, 5), ["cpu-0", "cpu-1"]),
        (4, None, None, ["0", "1", "2", "3"]),
        (4, None, 2, ["0", "1"]),
        (4, None, (3, 1), ["3", "1"]),
        (2, "5,7", None, ["5", "7"]),
        (2, "5,7", (1,), ["7"]),
        (2, "GPU-aa, GPU-bb", 1, ["GPU-aa"]),
    ],
)
def test_devices_are_those_that_are_asked_for_among_those_that_are_visible(count, named, asked, found, accelerators):
    accelerators(count, named)
    assert find_devices("auto", asked, 3) == Devices(tuple(found), count > 0)
    assert not find_devices("cpu", asked, 3).accelerated


def test_devices_that_are_not_there_are_refused_with_the_remedy(accelerators):
    accelerators(2)
    with pytest.raises(ConfigError, match=r"asks for 3 device\(s\), and torch sees 2, numbered from 0: there is no 2"):
        find_devices("cuda", 3, 1)
    with pytest.raises(ConfigError, match=r"asks for the devices \[0, 4\], .* there is no 4; set it to null"):
        find_devices("auto", (0, 4), 1)
    accelerators(0)
    with pytest.raises(ModelError, match="torch sees no CUDA device; set it to `auto` or `cpu`"):
        find_devices("cuda", None, 1)


@pytest.mark.parametrize("devices", [0, -1, [], [0, 0], [-1], "all"])
def test_devices_that_mean_nothing_are_refused(devices):
    with pytest.raises(ConfigError, match=r"compute\.devices"):
        parse_params({"compute": {"devices": devices}})


def test_a_process_that_sees_more_than_its_own_is_told(monkeypatch):
    monkeypatch.setenv(device_room.VISIBLE, "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelError, match="confined to the accelerator 1: it sees 2; set CUDA_VISIBLE_DEVICES=1"):
        device_room.confine("1")


def test_memory_is_the_machines_or_what_its_container_may_take(monkeypatch, tmp_path):
    free = device_room.memory_of(torch.device("cpu"))
    assert 0 < free.free <= free.total
    monkeypatch.setattr(device_room, "CGROUP", tmp_path)
    for name, value in {"memory.max": 3_000_000, "memory.current": 1_000_000}.items():
        (tmp_path / name).write_text(f"{value}\n")
    assert device_room.memory_of(torch.device("cpu")) == device_room.Memory(3_000_000, 2_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert device_room.memory_of(torch.device("cpu")).total == device_room.psutil.virtual_memory().total


# --- slots ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(count=st.integers(1, 4), holders=st.integers(1, 12))
def test_no_two_threads_ever_hold_one_slot(tmp_path_factory, count, holders):
    slots = Slots(tmp_path_factory.mktemp("slots"), Devices(tuple(map(str, range(count))), True))
    held, most, guard = [], [], threading.Lock()

    def hold(_: int) -> None:
        with slots.taken() as (name,):
            with guard:
                assert name not in held
                held.append(name)
                most.append(len(held))
            time.sleep(0.001)
            with guard:
                held.remove(name)

    with ThreadPoolExecutor(holders) as pool:
        list(pool.map(hold, range(holders)))
    assert max(most) <= count and not held
    assert [slots.take_free() for _ in range(count)] == list(slots.devices.names), "a slot was not given back"
    assert slots.take_free() is None


@settings(max_examples=20, deadline=None)
@given(wanted=st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_who_waits_for_several_slots_gets_them_all_and_nobody_waits_for_ever(tmp_path_factory, wanted):
    slots = Slots(tmp_path_factory.mktemp("slots"), Devices(("0", "1", "2"), True))
    held, guard = set(), threading.Lock()

    def hold(count: int) -> None:
        with slots.taken(count) as names:
            assert len(set(names)) == count
            with guard:
                assert not held.intersection(names)
                held.update(names)
            time.sleep(0.001)
            with guard:
                held.difference_update(names)

    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(hold, wanted, timeout=30))


def test_a_slot_comes_back_from_a_block_that_fails(tmp_path):
    slots = Slots(tmp_path, Devices(("0",), True))
    with pytest.raises(KeyError), slots.taken():
        raise KeyError
    assert slots.take_free() == "0"


def test_who_waits_for_a_slot_of_a_run_that_has_ended_waits_no_longer(tmp_path):
    slots = Slots(tmp_path, Devices(("0",), True))
    assert slots.take_free() == "0"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slots.taken().__enter__)
        slots.close()
        with pytest.raises(CancelledError):
            waiting.result(timeout=10)


def test_a_slot_never_outlives_its_process(tmp_path):
    """Of another process, which is killed while it holds one of two slots."""
    slots, told = Slots(tmp_path, TWO), SPAWN.SimpleQueue()
    holder = SPAWN.Process(target=_hold, args=(tmp_path, told))
    holder.start()
    name = told.get()
    mine = slots.take_free()
    assert {name, mine} == {"cpu-0", "cpu-1"} and slots.take_free() is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with slots.taken() as again:
        assert again == (name,)


def _hold(root: Path, told) -> None:
    with Slots(root, TWO).taken() as (name,):
        told.put(name)
        time.sleep(60)


def test_a_stage_by_itself_takes_a_device_only_if_it_needs_one(tmp_path, accelerators, monkeypatch):
    accelerators(0)
    with own_device("ingest", tmp_path, Compute()) as slots:
        assert slots is None
    with own_device("sft-full-B", tmp_path, Compute(devices=2)) as slots:
        assert slots.take_free() == "cpu-1" and slots.take_free() is None
    with own_device("sft-full-B", tmp_path / "several", Compute(devices=3, devices_per_training=2)) as slots:
        assert slots.own == ("cpu-0", "cpu-1") and slots.take_free() == "cpu-2"
    with pytest.raises(ConfigError, match=r"devices_per_training is 3, and a run here has 2 .*raise compute.workers"):
        devices_of(Compute(workers=2, devices_per_training=3))
    accelerators(2)
    confined = []
    monkeypatch.setattr("tasks.slots.confine", confined.append)
    with own_device("score-lookahead", tmp_path, Compute()) as slots:
        assert confined == ["0"] and slots.take_free() == "1"
