"""Slots: one for each device, so that no two processes of a workspace have the same one."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from ost.errors import ConfigError
from ost.execution.device import Devices, confine, find_devices
from tasks.pipeline import ON_ACCELERATOR
from tasks.settings import Compute

T = TypeVar("T")

POLL = 0.2
"""Seconds after which a slot is asked for again that another process has."""
FOLDER = ".ost/slots"
"""Where a workspace's slots lie, a file each."""


class Slots:
    """The devices of a run. Whoever holds a slot has the device to itself, until it gives it back or its process ends.

    A slot is a lock on a file, which the kernel takes from a process that ends in whatever way; so the flow, and stages
    that ask for more than their own device, share them without a word.
    """

    def __init__(self, root: Path, devices: Devices, own: tuple[str, ...] = ()):
        """`own`: the devices that the process holds already, its own first."""
        self.root, self.devices, self.own = root, devices, own
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        self._locks = {name: self._lock(str(number)) for number, name in enumerate(devices.names)}
        self._several = self._lock("several")
        self._changed, self._closed = threading.Condition(), False

    def take_free(self) -> str | None:
        """The name of a device that is nobody's, and from now on the caller's; None where there is none."""
        return next((name for name, lock in self._locks.items() if self._acquired(lock)), None)

    def give_back(self, name: str) -> None:
        """Let others have the device."""
        self._release(self._locks[name])

    @contextmanager
    def taken(self, count: int = 1) -> Iterator[tuple[str, ...]]:
        """So many devices for the time of the block, waited for; raises CancelledError once the slots are closed.

        One at a time waits for several, so that no two wait for what the other has.
        """
        held: list[str] = []
        try:
            with self._alone() if count > 1 else nullcontext():
                while len(held) < count:
                    held.append(self._waited_for(self.take_free))
            yield tuple(held)
        finally:
            for name in held:
                self.give_back(name)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._waited_for(lambda: self._acquired(self._several) or None)
        try:
            yield
        finally:
            self._release(self._several)

    def _waited_for(self, take: Callable[[], T | None]) -> T:
        while (found := take()) is None:
            with self._changed:
                self._changed.wait(POLL)
                if self._closed:
                    raise CancelledError("the run ended before a device was free")
        return found

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.root / FOLDER / f"{name}.lock", thread_local=False)

    def _acquired(self, lock: FileLock) -> bool:
        with self._changed:
            if lock.is_locked:  # by another thread of this process
                return False
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            return True

    def _release(self, lock: FileLock) -> None:
        with self._changed:
            lock.release()
            self._changed.notify_all()


def devices_for(stage: str, compute: Compute) -> int:
    """How many devices a stage needs at once."""
    kind = stage.partition("-")[0]
    return compute.devices_per_training if kind in ("sft", "trial") else int(kind in ON_ACCELERATOR)


@contextmanager
def own_device(stage: str, root: Path, compute: Compute) -> Iterator[Slots | None]:
    """A device for a stage that is run in this very process, which from then on sees no other; None if it needs none.

    Yields the slots, of which the stage may take more.
    """
    if not (count := devices_for(stage, compute)):
        yield None
        return
    slots = Slots(root, devices_of(compute))
    with slots.taken(count) as slots.own:
        if slots.devices.accelerated:
            confine(slots.own[0])
        yield slots


def devices_of(compute: Compute) -> Devices:
    """The devices of a run; raises as `find_devices`, and ConfigError where they are too few for one training."""
    found = find_devices(compute.device, compute.devices, compute.workers)
    if len(found.names) < compute.devices_per_training:
        raise ConfigError(
            f"compute.devices_per_training is {compute.devices_per_training}, and a run here has {len(found.names)} "
            f"device(s): lower it, or raise compute.{'devices' if compute.devices or found.accelerated else 'workers'}"
        )
    return found
