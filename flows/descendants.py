"""Nothing that a run starts outlives it, however it ends: neither Prefect's own server nor a trainer of the user's."""

import os
import subprocess
import sys
import uuid

import psutil

MARK = "OST_RUN"
"""Variable of the environment that all that a run starts has from it: its mark, behind those of the runs around it."""
PATIENCE = 5.0
"""Seconds that a process may take to end by itself."""


def end_descendants_with_this_process() -> None:
    """From here on, whatever this process starts is ended once it is gone, be it by SIGKILL.

    A second process sees to that, which waits for this one's end of a pipe to close.
    """
    if _watchers:
        return
    mark = uuid.uuid4().hex
    os.environ[MARK] = " ".join([*os.environ.get(MARK, "").split(), mark])  # behind those of whoever started this
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # In a session of its own a Ctrl-C does not reach it. The pipe is never closed by hand: the kernel does that.
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, mark], stdin=subprocess.PIPE, start_new_session=True, **quiet
    )
    _watchers.append(process)


_watchers: list[subprocess.Popen] = []
"""Held, so that its pipe stays open as long as this process lives."""


def end_marked(mark: str) -> None:
    """End all processes that have the mark, but for this one: those that do not end by themselves are killed."""
    for _ in range(10):  # one may have started another meanwhile
        if not (left := marked(mark)):
            return
        for process in left:
            process.terminate()
        for process in psutil.wait_procs(left, PATIENCE)[1]:
            process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """The processes that were started with the mark in their environment, but for this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _has(process, mark)]


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in process.environ().get(MARK, "").split() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # it has ended, or is another user's
        return False


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
