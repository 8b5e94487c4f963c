"""Server processes: started, waited for, and stopped cleanly."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

BIN = Path(sys.executable).parent

START = 120.0
"""Seconds that a server has to answer."""
STOP = 15.0
"""Seconds that it has to end once it is asked to."""


class ServerError(RuntimeError):
    """A server did not come up."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], ready: str | Callable[[], bool], log: Path, stop: float = STOP, **options
) -> Iterator[subprocess.Popen]:
    """A server process, from when it is ready to the end of the block; it is asked to end, and killed after `stop` s.

    `ready`: an address that it answers at, or a test of its own. Raises ServerError, with the end of its log, where it
    does not come up.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, **options)
    answers = ready if callable(ready) else lambda: _answers(ready)
    try:
        deadline = time.monotonic() + START
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{Path(command[0]).name} does not come up; its log ends: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        _stop(process, stop)


def run(command: list[str | Path], **options) -> str:
    """What a command prints; raises ServerError, with all that it said, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise ServerError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _stop(process: subprocess.Popen, seconds: float) -> None:
    """Ask the process to end, and kill what is left of its group."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True
