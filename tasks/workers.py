"""Worker processes: each runs one stage at a time, apart from the flow's threads and with its own memory."""

import contextlib
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_byte
from pathlib import Path

from ost.execution.device import Devices, confine
from ost.processes import process_pool
from tasks.forecast import Forecast
from tasks.settings import Compute
from tasks.slots import Slots, devices_for, devices_of

Listener = Callable[[str, int, int, str], None]
"""Told (stage, done, total, note) as stages advance."""

INTERVAL = 0.2
"""Seconds between two progress reports of one stage, at least."""


class Workers:
    """Processes that run the stages of a workspace. Use as a context manager.

    A stage that computes on the accelerator takes a slot first, and gives it back however it ends. Where there is one,
    it gets a new process, which sees its own device alone and ends with the stage, and so does all that it holds there;
    elsewhere processes are used again.
    """

    def __init__(self, root: Path, compute: Compute, listener: Listener):
        context = multiprocessing.get_context("spawn")
        self._root, self._compute = root, compute
        self._queue, self._cut_short = context.SimpleQueue(), context.Value("b", False, lock=False)
        asked = compute.devices or 0
        self._count = max(compute.workers, asked if isinstance(asked, int) else len(asked))
        self._places = threading.BoundedSemaphore(self._count)
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: set[ProcessPoolExecutor] = set()
        self._guard, self._closed = threading.Lock(), False
        self._looking = threading.Lock()
        self._reader = threading.Thread(target=self._read, args=(listener,), daemon=True)

    def __enter__(self) -> "Workers":
        self._reader.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Wait for what runs, also after an error, so as to keep it; a flow that a signal ends takes it along."""
        if kind and not issubclass(kind, Exception):
            self._cut_short.value = True  # no Event: to set one waits for all that sleep on it, the killed ones too
        with self._guard:
            self._closed = True
        if "slots" in vars(self):
            self.slots.close()
        for pool in (*self._idle, *self._busy):
            pool.shutdown(cancel_futures=True)
        self._queue.put(None)
        self._reader.join()

    @functools.cached_property
    def slots(self) -> Slots:
        """The run's devices, which a worker has looked for: a flow needs no torch."""
        return Slots(self._root, self.call(devices_of, self._compute))

    def run(self, stage: str) -> dict:
        """Run a stage in the next free process, and on the next free device if it needs one; returns its manifest."""
        if not (count := devices_for(stage, self._compute)):
            return self.call(_execute, stage, self._root)
        devices = self.devices
        with self.slots.taken(count) as own:
            return self.on_device(own[0], _execute, stage, self._root, devices, own)

    @property
    def devices(self) -> Devices:
        """The devices that stages are run on."""
        with self._looking:
            return self.slots.devices

    def forecast(self, stages: Sequence[str]) -> Forecast:
        """What these stages will take, tried on the next free device."""
        count = len(self.devices.names)
        with self.slots.taken() as (name,):
            return self.on_device(name, _forecast, stages, self._root, count)

    def on_device(self, name: str, function: Callable, *args):
        """What a function gives in a process that has the device to itself."""
        if not self.slots.devices.accelerated:
            return self.call(function, *args)
        pool = process_pool(1, "tasks.stages.sft", _start, self._queue, self._cut_short, name)
        with pool, self._at_work(pool):
            return pool.submit(function, *args).result()

    def call(self, function: Callable, *args):
        """What a function gives in the next free process; raises CancelledError where the run has ended.

        Each process is a pool of its own: one that is killed takes no other along. And a pool may overlook the death of
        a process that it started behind its first.
        """
        with self._places:
            with self._guard:
                pool = self._idle.pop() if self._idle else self._started()
            with self._at_work(pool):
                try:
                    return pool.submit(function, *args).result()
                except BrokenProcessPool:
                    pool = None
                    raise
                finally:
                    if pool:
                        self._idle.append(pool)

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, _start, (self._queue, self._cut_short))

    @contextlib.contextmanager
    def _at_work(self, pool: ProcessPoolExecutor) -> Iterator[None]:
        """A pool that the end of the run waits for; raises CancelledError where the run has ended."""
        with self._guard:
            if self._closed:
                raise CancelledError("the run has ended")
            self._busy.add(pool)
        try:
            yield
        finally:
            with self._guard:
                self._busy.discard(pool)

    def _read(self, listener: Listener) -> None:
        while (message := self._queue.get()) is not None:
            listener(*message)


_queue = None
"""In a worker, the way back to its flow: a queue cannot travel with a call, it is handed over as the process starts."""


def _start(queue, cut_short: c_byte, accelerator: str | None = None) -> None:
    global _queue
    _queue = queue
    threading.Thread(target=_die_with, args=(multiprocessing.parent_process(), cut_short), daemon=True).start()
    if accelerator:
        confine(accelerator)


def _die_with(parent: multiprocessing.Process, cut_short: c_byte) -> None:
    """End this process when its flow ends early or is gone: nobody may write into a workspace that none runs."""
    while parent.is_alive() and not cut_short.value:
        time.sleep(0.5)
    os._exit(1)


def _forecast(stages: Sequence[str], root: Path, devices: int) -> Forecast:
    from tasks.stages.probe import probe

    return probe(root, stages, devices)


def _execute(stage: str, root: Path, devices: Devices | None = None, own: tuple[str, ...] = ()) -> dict:
    from tasks.stages.run import execute  # torch is loaded here, in the worker, and not by the flow

    last = 0.0

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if done == total or time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            _queue.put((stage, done, total, note))

    return execute(stage, root, progress, Slots(root, devices, own) if devices else None)
