"""One training by several processes: the stage's own, and one on each further device that it holds."""

import contextlib
import multiprocessing.connection
import os
import socket
from collections.abc import Callable, Iterator, Sequence

from accelerate import PartialState
from torch import distributed

from ost.errors import OSTError, TrainingError
from ost.execution.device import confine
from ost.processes import end_with_parent
from tasks.slots import Slots

LOOPBACK = "127.0.0.1"
AWHILE = 5.0
"""Seconds from a connection's loss until the system tells of a process's end, at most."""


@contextlib.contextmanager
def shared(slots: Slots | None, join: Callable[..., object], *args) -> Iterator[None]:
    """Train in this block what `join(*args)` trains at the same time in a process on each further device of the stage.

    `ost.training.train` shares its steps among them, as it does among those of `torchrun`. Where one ends early, what
    it raised is raised here; none outlives the block.
    """
    others = slots.own[1:] if slots else ()
    if not others:
        yield
        return
    accelerated = slots.devices.accelerated
    world = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(len(others) + 1)}
    world |= {"LOCAL_RANK": "0"}  # each sees one device
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        world["GLOO_SOCKET_IFNAME"] = "lo"  # a machine's name may lead nowhere
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    processes = []
    for rank, name in enumerate(others, 1):
        member = (world | {"RANK": str(rank)}, name if accelerated else None)
        processes.append(context.Process(target=_join, args=(*member, failures, join, args)))
        processes[-1].start()
    try:
        with _member(world | {"RANK": "0"}, accelerated):
            yield
    except RuntimeError as error:  # how a lost connection shows
        if not failures.empty():
            raise failures.get() from error
        ended = multiprocessing.connection.wait([process.sentinel for process in processes], AWHILE)
        for process in processes:
            if process.sentinel in ended:  # which may be a moment before its exit status is known
                process.join()
        if any(process.exitcode for process in processes):
            raise TrainingError(
                "a process that shared this training was ended from outside, most likely for want of memory: lower "
                "compute.batch_tokens or compute.devices_per_training; the training goes on where it was saved"
            ) from error
        raise
    finally:
        for process in processes:
            process.kill()
            process.join()


def _join(
    environment: dict[str, str], accelerator: str | None, failures, join: Callable[..., object], args: Sequence
) -> None:
    end_with_parent()
    if accelerator:
        confine(accelerator)
    with _member(environment, accelerator is not None):
        try:
            join(*args)
        except OSTError as error:
            failures.put(error)
            raise SystemExit(1) from error


@contextlib.contextmanager
def _member(environment: dict[str, str], accelerated: bool) -> Iterator[None]:
    """One of several processes, which meet here, for the time of the block; alone again after it."""
    os.environ.update(environment)
    PartialState._reset_state()  # a process has one for good, where it does not ask for another
    try:
        PartialState(cpu=not accelerated)
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        PartialState._reset_state()
        for name in environment:
            os.environ.pop(name)


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        return server.getsockname()[1]
