"""What a process starts is gone once it is, even where it is killed, and where its children do not want to end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows.descendants import MARK, end_marked

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
PARENT = f"""
import os, subprocess, sys, time
from flows.descendants import end_descendants_with_this_process
end_descendants_with_this_process()
end_descendants_with_this_process()
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
plain = subprocess.Popen("sleep 600 & wait", shell=True)
time.sleep(0.2)
print(child.pid, *(one.pid for one in __import__("psutil").Process(plain.pid).children()), plain.pid, flush=True)
if sys.argv[1] == "ends":
    sys.exit()
time.sleep(600)
"""


def is_at_work(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("way", ["ends", "is killed"])
def test_nothing_outlives_the_process_that_started_it(way, monkeypatch):
    """Nor where it was started by a run itself, which goes on."""
    monkeypatch.setenv(MARK, "outer")
    bystander = subprocess.Popen(["sleep", "600"])
    process = subprocess.Popen([sys.executable, "-c", PARENT, way], stdout=subprocess.PIPE, text=True)
    started = [int(pid) for pid in process.stdout.readline().split()]
    assert len(started) == 3
    if way == "is killed":
        assert all(map(is_at_work, started))
        process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(is_at_work, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in started if is_at_work(pid)]
    assert not left and bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_processes_of_another_run_are_left_alone(monkeypatch):
    others = subprocess.Popen(["sleep", "600"], env=os.environ | {MARK: "another"})
    end_marked("mine")
    assert others.poll() is None
    end_marked("another")
    assert not is_at_work(others.pid)
