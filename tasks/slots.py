"""Slots: one for each device, so that no two processes of a workspace have the same one."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ost.execution.device import Devices, confine, find_devices
from tasks.pipeline import ON_ACCELERATOR
from tasks.settings import Compute

POLL = 0.2
"""Seconds after which a slot is asked for again that another process has."""
FOLDER = ".ost/slots"
"""Where a workspace's slots lie, a file each."""


class Slots:
    """The devices of a run. Whoever holds a slot has the device to itself, until it gives it back or its process ends.

    A slot is a lock on a file, which the kernel takes from a process that ends in whatever way; so the flow, and stages
    that ask for more than their own device, share them without a word.
    """

    def __init__(self, root: Path, devices: Devices):
        self.root, self.devices = root, devices
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        self._locks = {
            name: FileLock(root / FOLDER / f"{number}.lock", thread_local=False)
            for number, name in enumerate(devices.names)
        }
        self._changed, self._closed = threading.Condition(), False

    def take_free(self) -> str | None:
        """The name of a device that is nobody's, and from now on the caller's; None where there is none."""
        with self._changed:
            return next((name for name, lock in self._locks.items() if _acquired(lock)), None)

    def give_back(self, name: str) -> None:
        """Let others have the device."""
        with self._changed:
            self._locks[name].release()
            self._changed.notify_all()

    @contextmanager
    def taken(self) -> Iterator[str]:
        """A device for the time of the block, waited for; raises CancelledError once the slots are closed."""
        while (name := self.take_free()) is None:
            with self._changed:
                self._changed.wait(POLL)
                if self._closed:
                    raise CancelledError("the run ended before a device was free")
        try:
            yield name
        finally:
            self.give_back(name)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _acquired(lock: FileLock) -> bool:
    if lock.is_locked:  # by another thread of this process
        return False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


@contextmanager
def own_device(stage: str, root: Path, compute: Compute) -> Iterator[Slots | None]:
    """A device for a stage that is run in this very process, which from then on sees no other; None if it needs none.

    Yields the slots, of which the stage may take more.
    """
    if stage.partition("-")[0] not in ON_ACCELERATOR:
        yield None
        return
    slots = Slots(root, find_devices(compute.device, compute.devices, compute.workers))
    with slots.taken() as name:
        if slots.devices.accelerated:
            confine(name)
        yield slots
