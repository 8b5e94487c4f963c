"""Worker processes: what comes back from them, and that none outlives its flow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.parameters import set_params
from ost.errors import WorkspaceError
from ost.store import digest
from tasks.stages.run import execute
from tasks.workers import Workers

FLOW = """
import sys
from pathlib import Path
from tasks.workers import Workers

def tell(stage, done, total, note):
    import multiprocessing
    print(stage, done, *(child.pid for child in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    with Workers(1, tell) as workers:
        workers.submit("base-target", Path(sys.argv[1])).result()
"""


def test_workers_do_the_stages_work_and_tell_of_it_and_of_its_errors(folder):
    """One pool for all three, since each process has to load torch."""
    told = []
    with Workers(1, lambda *report: told.append(report)) as workers:
        with pytest.raises(WorkspaceError) as from_worker:
            workers.submit("ingest", folder).result(timeout=120)
        with pytest.raises(WorkspaceError) as from_here:
            execute("ingest", folder)
        assert str(from_worker.value) == str(from_here.value), "the error changed on its way out of the process"
        manifest = workers.submit("base-target", folder).result(timeout=120)
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
