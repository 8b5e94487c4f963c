"""The lock of a workspace, which whoever changes it holds: a flow, a stage of `dvc repro`, `ost curate --set`."""

import fcntl
import os
from pathlib import Path
from typing import IO

from ost.errors import WorkspaceError


def claim(path: Path) -> IO[str]:
    """A workspace's .ost/lock, opened, which this process alone holds until it is closed, or the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "another"
        file.close()
        raise WorkspaceError(
            f"process {holder} is at work in {path.parents[1]}: wait until it is done, or end it, and run again"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
