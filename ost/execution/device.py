"""Devices: which there are, one for each process, and what memory they have.

torch is loaded by what asks it: a flow, which passes devices on to its workers, does without.
"""

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ost.errors import ConfigError, ModelError
from ost.types import Device

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable of the environment that says which accelerators a process sees, and as which numbers."""
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what memory a container may take."""


@dataclass(frozen=True)
class Devices:
    """The devices of a run, each of which one process has to itself."""

    names: tuple[str, ...]
    """Of accelerators, as CUDA_VISIBLE_DEVICES has them; else of so many processes on the CPU."""
    accelerated: bool


def find_devices(device: Device, asked: int | Sequence[int] | None, processes: int) -> Devices:
    """The devices that `compute.device` and `compute.devices` ask for; without accelerators, so many processes.

    It does not initialise CUDA. Raises ModelError where an accelerator is asked for and there is none, ConfigError
    where more, or others, are asked for than there are.
    """
    names = _visible() if device != "cpu" else []
    if device == "cuda" and not names:
        raise ModelError("compute.device is `cuda`, but torch sees no CUDA device; set it to `auto` or `cpu`")
    if not names:
        count = processes if asked is None else asked if isinstance(asked, int) else len(asked)
        return Devices(tuple(f"cpu-{number}" for number in range(count)), False)
    numbers = range(len(names) if asked is None else asked) if isinstance(asked, int | None) else asked
    if absent := [number for number in numbers if number >= len(names)]:
        raise ConfigError(
            f"compute.devices asks for {_told(asked)}, and torch sees {len(names)}, numbered from 0: there is no "
            f"{absent[0]}; set it to null for all of them"
        )
    return Devices(tuple(names[number] for number in numbers), True)


def _told(asked: int | Sequence[int]) -> str:
    return f"{asked} device(s)" if isinstance(asked, int) else f"the devices {list(asked)}"


def _visible() -> list[str]:
    """The accelerators that torch sees, by the names that a process is started with to see one of them alone."""
    import torch

    count, given = torch.cuda.device_count(), os.environ.get(VISIBLE)
    named = [name.strip() for name in given.split(",")] if given else [str(number) for number in range(count)]
    return named[:count]


def confine(name: str) -> None:
    """Let this process see one accelerator alone, whatever it starts next included; raises ModelError if it cannot.

    CUDA reads the variable once, as it is initialised, and never again; `torch.cuda.set_device` would leave all of them
    in sight, and transformers' Trainer would split its batches among them. So this comes before CUDA is used.
    """
    import torch

    os.environ[VISIBLE] = name
    if torch.cuda.is_initialized() or torch.cuda.device_count() != 1:
        raise ModelError(
            f"this process cannot be confined to the accelerator {name}: it sees {torch.cuda.device_count()}; set "
            f"{VISIBLE}={name} before you start it"
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of memory that models are held in."""

    total: int
    free: int


def memory_of(device: "torch.device") -> Memory:
    """Memory of an accelerator, or of this machine, of which a container may have less."""
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    machine, limit, used = psutil.virtual_memory(), None, 0
    with suppress(OSError, ValueError):  # no container's limit, or `max`
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    if limit is None:
        return Memory(machine.total, machine.available)
    return Memory(min(limit, machine.total), max(0, min(limit - used, machine.available)))


def peak_memory(device: "torch.device") -> int:
    """The most bytes that this process has held: of an accelerator, as torch counts them, or resident ones."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
