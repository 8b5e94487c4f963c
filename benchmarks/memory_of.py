"""Peak memory of a command and all that it starts."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

INTERVAL = 0.05
"""Seconds between two looks."""


@dataclass(frozen=True)
class Ran:
    """What a command did and took."""

    output: str
    seconds: float
    peak_mb: float
    """Sum of the resident memory of all its processes; what they share is counted for each."""


def run(command: Sequence[str], **options) -> Ran:
    """Run a command to its end; raises CalledProcessError where it fails."""
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, _resident(root))
            time.sleep(INTERVAL)
        output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Ran(output, time.perf_counter() - began, peak / 2**20)


def _resident(root: psutil.Process) -> int:
    total = 0
    try:
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total
