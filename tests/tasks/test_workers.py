"""Worker processes: what comes back from them, and that none outlives its flow."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from pathlib import Path

import pytest

from flows.parameters import set_params
from ost.errors import WorkspaceError
from ost.execution.device import VISIBLE, Devices
from ost.store import digest
from tasks import workers as workers_room
from tasks.settings import Compute
from tasks.slots import Slots
from tasks.stages.run import execute
from tasks.workers import Workers

FLOW = """
import sys
from pathlib import Path
from tasks.settings import Compute
from tasks.workers import Workers

def tell(stage, done, total, note):
    import multiprocessing
    print(stage, done, *(child.pid for child in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    with Workers(Path(sys.argv[1]), Compute(workers=1), tell) as workers:
        workers.run("base-target")
"""


def test_workers_do_the_stages_work_and_tell_of_it_and_of_its_errors(folder):
    """One pool for all three, since each process has to load torch."""
    told = []
    with Workers(folder, Compute(workers=1), lambda *report: told.append(report)) as workers:
        with pytest.raises(WorkspaceError) as from_worker:
            workers.run("ingest")
        with pytest.raises(WorkspaceError) as from_here:
            execute("ingest", folder)
        assert str(from_worker.value) == str(from_here.value), "the error changed on its way out of the process"
        manifest = workers.run("base-target")
    assert manifest["outputs"] == {"models/target": digest(folder / "models/target")}, "a failed stage ended the pool"
    assert told[-1][:3] == ("base-target", 4, 4), "the last progress report is lost, so that a bar never fills"


def test_a_worker_dies_with_its_flow_and_leaves_nothing_that_looks_finished(folder, tmp_path):
    set_params(folder / "params.yaml", ["base.target_steps=1000000"])
    script = tmp_path / "flow.py"
    script.write_text(FLOW)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    flow = subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True, env=environment)
    stage, _, *workers = flow.stdout.readline().split()
    assert stage == "base-target"
    assert len(workers) == 1
    worker = int(workers[0])
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    try:
        assert ended(worker, within=10), "an orphaned worker goes on writing into a workspace that nobody runs"
    finally:
        if alive(worker):
            os.kill(worker, signal.SIGKILL)
    assert not (folder / "models/target").exists()


def test_a_run_that_is_ended_with_its_workers_does_not_wait_for_them(tmp_path):
    """A signal to the whole process group takes the workers first."""
    workers = Workers(tmp_path, Compute(workers=1), lambda *report: None)
    workers.__enter__()
    known = {child.pid for child in active_children()}
    workers.call(os.getpid)
    time.sleep(0.2)  # so that it waits for the end of its flow
    for child in active_children():
        if child.pid not in known:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
    ending = threading.Thread(target=workers.__exit__, args=(KeyboardInterrupt, KeyboardInterrupt(), None), daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()


def test_two_trainings_run_side_by_side_each_on_a_device_of_its_own_until_one_is_killed(folder):
    """Neither can finish; a third waits for a device, and gets that of the first to be killed."""
    endless = ["base.target_steps=1000000", "base.proxy_steps=1000000"]
    set_params(folder / "params.yaml", endless)
    begun, both = set(), threading.Event()

    def tell(stage: str, *report) -> None:
        begun.add(stage)
        if len(begun) > 1:
            both.set()

    with (
        ThreadPoolExecutor(3) as threads,
        Workers(folder, Compute(device="cpu", devices=2, workers=1), tell) as workers,
    ):
        try:
            runs = [threads.submit(workers.run, stage) for stage in ("base-target", "base-proxy")]
            assert both.wait(timeout=120), "the second waits for the first"
            assert workers.slots.take_free() is None
            third = threads.submit(workers.run, "base-judge")
            time.sleep(1)
            assert begun == {"base-target", "base-proxy"} and not third.done()
            os.kill(active_children()[0].pid, signal.SIGKILL)
            (ended,), (left,) = wait(runs, timeout=60, return_when=FIRST_COMPLETED)
            assert isinstance(ended.exception(), BrokenProcessPool)
            told = third.exception(timeout=60)
            assert told and not isinstance(told, BrokenProcessPool), "no judge is named; its device was free"
            assert not left.done(), "one that is killed takes no other along"
        finally:
            for child in active_children():
                child.kill()
        assert isinstance(left.exception(timeout=60), BrokenProcessPool)
        assert [workers.slots.take_free() for _ in range(3)] == ["cpu-0", "cpu-1", None], "a slot is lost"


def test_on_an_accelerator_each_stage_has_a_new_process_that_sees_its_own_device_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(workers_room, "_start", _start_without_cuda)
    with Workers(tmp_path, Compute(workers=1), print) as workers:
        workers.slots = Slots(tmp_path, Devices(("5", "7"), True))
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(lambda name: workers.on_device(name, _seen), ["5", "7", "5"]))
        assert [device for _, device in found] == ["5", "7", "5"]
        assert len({pid for pid, _ in found} | {os.getpid()}) == 4, "what one left on the device is the next one's"
        assert not any(alive(pid) for pid, _ in found), "its memory is still held"
        with pytest.raises(BrokenProcessPool):
            workers.on_device("5", os._exit, 1)
        assert workers.on_device("5", _seen)[1] == "5", "one that dies takes nothing along"


def _start_without_cuda(queue, cut_short, accelerator: str | None = None) -> None:
    """Of a machine without CUDA, where no process can be confined."""
    if accelerator:
        os.environ[VISIBLE] = accelerator


def _seen() -> tuple[int, str]:
    return os.getpid(), os.environ[VISIBLE]


def ended(pid: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
