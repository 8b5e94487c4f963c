"""Worker processes: each runs one stage at a time, apart from the flow's threads and with its own memory."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path

Listener = Callable[[str, int, int, str], None]
"""Told (stage, done, total, note) as stages advance."""

INTERVAL = 0.2
"""Seconds between two progress reports of one stage, at least."""


class Workers:
    """A pool of `count` processes that run stages. Use as a context manager."""

    def __init__(self, count: int, listener: Listener):
        context = multiprocessing.get_context("spawn")
        self._queue, self._cut_short = context.SimpleQueue(), context.Event()
        self._pool = ProcessPoolExecutor(count, context, _start, (self._queue, os.getpid(), self._cut_short))
        self._reader = threading.Thread(target=self._read, args=(listener,), daemon=True)

    def __enter__(self) -> "Workers":
        self._reader.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Wait for what runs, also after an error, so as to keep it; a flow that a signal ends takes it along."""
        if kind and not issubclass(kind, Exception):
            self._cut_short.set()
        self._pool.shutdown(cancel_futures=True)
        self._queue.put(None)
        self._reader.join()

    def submit(self, stage: str, root: Path) -> "Future[dict]":
        """Run a stage in the next free process; the result is its manifest."""
        return self._pool.submit(_execute, stage, str(root))

    def _read(self, listener: Listener) -> None:
        while (message := self._queue.get()) is not None:
            listener(*message)


_queue = None
"""In a worker, the way back to its flow: a queue cannot travel with a call, it is handed over as the process starts."""


def _start(queue, parent: int, cut_short: Event) -> None:
    global _queue
    _queue = queue
    threading.Thread(target=_die_with, args=(parent, cut_short), daemon=True).start()


def _die_with(parent: int, cut_short: Event) -> None:
    """End this process when its flow ends early or is gone: nobody may write into a workspace that none runs."""
    while os.getppid() == parent and not cut_short.wait(0.5):
        pass
    os._exit(1)


def _execute(stage: str, root: str) -> dict:
    from tasks.stages.run import execute  # torch is loaded here, in the worker, and not by the flow

    last = 0.0

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if done == total or time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            _queue.put((stage, done, total, note))

    return execute(stage, root, progress)
