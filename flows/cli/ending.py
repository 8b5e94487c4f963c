"""A command that a signal ends is gone soon: Prefect would tell a server, which a Ctrl-C ends first, for minutes."""

import os
import signal
import socket
import sys
import threading

ENDED = 130
"""Exit status of a command that a signal ended."""
GRACE = 10.0
"""Seconds that it has to put things in order."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_soon_after_a_signal() -> None:
    """From here on SIGTERM ends this process as Ctrl-C does; GRACE seconds later, or at a second Ctrl-C, it is gone.

    The signals are seen by a thread as well, since Prefect puts a handler of its own in place of any other.
    """
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    seen, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(seen, told), daemon=True).start()


def _watch(seen: socket.socket, told: socket.socket) -> None:
    """`told`: the other end, held so that it stays open."""
    ends = False
    while number := seen.recv(1)[0]:
        if number not in SIGNALS:
            continue
        if ends and number == signal.SIGINT:
            os._exit(ENDED)
        if not ends:
            ends = True
            print("ending; the same command goes on where it stood", file=sys.stderr)  # noqa: T201
            timer = threading.Timer(GRACE, os._exit, [ENDED])
            timer.daemon = True
            timer.start()
