"""A command line of the user's own, run in the workspace: what it is given, what it says, how its failure is told."""

import os
import shlex
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from ost.errors import OSTError
from ost.execution.device import VISIBLE
from tasks.stages.context import Context

TAIL = 15
"""Lines of its output that are shown where it fails."""
LINE = 120
"""Characters of its last line that are shown while it runs."""


def filled(command: str, given: Mapping[str, object]) -> str:
    """A command with its {placeholders} replaced, each value quoted for the shell."""
    return command.format(**{name: shlex.quote(str(value)) for name, value in given.items()})


def run_command(ctx: Context, setting: str, command: str, log: Path, error: type[OSTError]) -> str:
    """Run a command in the workspace until it ends, its last line shown as it comes; all that it says goes to `log`.

    It sees all the accelerators that the stage holds, of which this process sees one. `setting`: where the user has it
    from, such as sft.command. Returns what it said last, and where the rest is, to be put behind an error's message.
    Raises `error` where the command ends with another code than 0.
    """
    last: deque[str] = deque(maxlen=TAIL)
    seen = {VISIBLE: ",".join(ctx.slots.own)} if ctx.slots and ctx.slots.devices.accelerated else {}
    with log.open("w") as kept:
        process = subprocess.Popen(
            command,
            shell=True,  # it is a line of the user's own
            cwd=ctx.root,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | seen,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            for number, line in enumerate(process.stdout, start=1):
                kept.write(line)
                last.append(line.rstrip())
                ctx.progress(number, 0, last[-1][:LINE])
        finally:
            if process.poll() is None:
                process.terminate()
            code = process.wait()
    said = _last_words(last, log)
    if code:
        raise error(f"{setting} ended with {code}; {said}")
    return said


def _last_words(lines: Sequence[str], log: Path) -> str:
    told = "\n".join(f"  {line}" for line in lines)
    return f"what it said last (all of it: {log}):\n{told}"
