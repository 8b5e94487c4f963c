"""DVC: whether a stage is up to date, and taking what it left under version control. Alone in importing dvc."""

import logging
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from ost.errors import WorkspaceError

logging.getLogger("dvc").setLevel(logging.WARNING)  # each commit would announce its lock file

_one_at_a_time = threading.Lock()
"""DVC allows one writer a workspace."""


def is_current(root: Path, stage: str) -> bool:
    """Whether a stage's outputs match its inputs, parameters and command as `dvc.lock` records them."""
    with _repository(root) as repo:
        return not repo.status(targets=[stage])


def stale_stages(root: Path) -> set[str]:
    """Names of all stages that are not up to date."""
    with _repository(root) as repo:
        return set(repo.status())


def commit(root: Path, stage: str) -> None:
    """Record a stage's inputs and outputs in `dvc.lock`, and keep the outputs' bytes in the cache."""
    with _repository(root) as repo:
        repo.commit(stage, force=True)


def init(root: Path) -> None:
    """Make a folder a DVC workspace of its own, without git."""
    Repo.init(str(root), no_scm=True, force=False).close()


@contextmanager
def _repository(root: Path) -> Iterator[Repo]:
    # Seen from another folder, DVC would call its stages by other names.
    with _one_at_a_time, chdir(root):
        try:
            repo = Repo(str(root))
        except DvcException as error:
            raise WorkspaceError(f"{root} is no DVC workspace ({error}): run `dvc init` there first") from error
        try:
            yield repo
        finally:
            repo.close()
