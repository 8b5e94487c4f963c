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
from dataclasses import dataclass
from pathlib import Path

import psutil

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


@dataclass
class Server:
    """A server process, which can be ended and started again."""

    command: Sequence[str | Path]
    ready: str | Callable[[], bool]
    """An address that it answers at once it is up, or a test of its own."""
    log: Path
    options: dict
    """Of subprocess.Popen."""
    patience: float = STOP
    """Seconds that it has to end by itself, once asked to."""
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it is ready; raises ServerError, with the end of its log, where it never is."""
        with self.log.open("ab") as stream:
            wiring = {"stdout": stream, "stderr": subprocess.STDOUT, "start_new_session": True}
            self.process = subprocess.Popen(self.command, **wiring, **self.options)
        deadline = time.monotonic() + START
        while not (self.ready() if callable(self.ready) else _answers(self.ready)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                name, end = Path(self.command[0]).name, self.log.read_text()[-2000:]
                raise ServerError(f"{name} does not come up; its log ends: {end}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to end, and kill what is left of its group."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.patience)
        self.kill()

    def kill(self) -> None:
        """End it and its group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_tree(self) -> None:
        """SIGKILL it and all that it started, in groups of their own too, as a machine that fails would."""
        family = psutil.Process(self.process.pid)
        for one in [*family.children(recursive=True), family]:
            one.kill()
        self.process.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], ready: str | Callable[[], bool], log: Path, patience: float = STOP, **options
) -> Iterator[Server]:
    """A server, from when it is ready to the end of the block; see `Server`."""
    server = Server(command, ready, log, options, patience)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def run(command: list[str | Path], **options) -> str:
    """What a command prints; raises ServerError, with all that it said, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise ServerError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True
