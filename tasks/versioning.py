"""DVC: whether a stage is up to date, and taking what it left under version control. Alone in importing dvc."""

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import IO, TypeVar

from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo

from ost.errors import WorkspaceError
from ost.store import publish
from tasks.storage import explained, patiently

Result = TypeVar("Result")

one_at_a_time = threading.Lock()
"""DVC allows one writer a workspace."""


def is_current(root: Path, stage: str) -> bool:
    """Whether a stage's outputs match its inputs, parameters and command as `dvc.lock` records them."""
    return not _ask(root, lambda repo: repo.status(targets=[stage]))


def stale_stages(root: Path) -> set[str]:
    """Names of all stages that are not up to date."""
    return _ask(root, lambda repo: set(repo.status()))


def commit(root: Path, stage: str) -> None:
    """Record a stage's inputs and outputs in `dvc.lock`, and keep the outputs' bytes in the cache."""
    _ask(root, lambda repo: repo.commit(stage, force=True))


def init(root: Path) -> None:
    """Make a folder a DVC workspace, of the git repository that it is the root of, or of its own."""
    if not (root / ".dvc").exists():
        Repo.init(str(root), no_scm=not (root / ".git").exists(), force=False).close()


def _ask(root: Path, question: Callable[[Repo], Result]) -> Result:
    """What DVC answers; where it watches data in object storage that is down, it is asked again."""

    def answer() -> Result:
        with _repository(root) as repo:
            return question(repo)

    with explained("the data in object storage"):
        return patiently(answer)


@contextmanager
def _repository(root: Path) -> Iterator[Repo]:
    # Seen from another folder, DVC would call its stages by other names.
    logging.getLogger("dvc").setLevel(logging.WARNING)  # each commit would announce its lock file
    with one_at_a_time, chdir(root):
        try:
            repo = Repo(str(root), fs=_WholeFiles())
        except DvcException as error:
            raise WorkspaceError(
                f"{root} is no DVC workspace ({error}): run `dvc init` there first, outside of git `dvc init --no-scm`"
            ) from error
        try:
            yield repo
        finally:
            repo.close()


class _WholeFiles(LocalFileSystem):
    """The local files; what DVC writes among them is there whole or not at all, whenever its process is killed.

    DVC writes `dvc.lock`, and the file of its own locks, in place: a kill leaves the half of one, or an empty one.
    """

    def open(self, path: str, mode: str = "r", encoding: str | None = None, **options) -> IO:
        """A file; one of text that is written anew is published as it is closed."""
        if mode not in ("w", "w+"):
            return super().open(path, mode, encoding=encoding, **options)
        return _Published(path, encoding)


class _Published(io.StringIO):
    """A text that becomes a file as it is closed."""

    def __init__(self, path: str, encoding: str | None):
        super().__init__()
        self._path, self._encoding = path, encoding

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            with publish(self._path) as part:
                part.write_text(self.getvalue(), encoding=self._encoding)
        super().__exit__(kind, error, trace)
