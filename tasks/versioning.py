"""DVC: whether a stage is up to date, and taking what it left under version control. Alone in importing dvc."""

import io
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import IO, TypeVar

from dvc.dirs import site_cache_dir
from dvc.exceptions import DvcException, PrettyDvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE

from ost.errors import WorkspaceError
from ost.store import publish, read_json
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
        try:
            return patiently(answer)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # as where another process holds it
                raise
            raise WorkspaceError(
                f"what DVC remembers of files is damaged ({error}): delete {site_cache_dir()}/repo, which it makes anew"
            ) from error
        except PrettyDvcException as error:  # `dvc` itself writes them in place, and may be killed
            raise WorkspaceError(
                f"DVC cannot read its own files ({error}): take dvc.lock back from git, or delete it, and its stages "
                "are run anew"
            ) from error


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

    DVC writes `dvc.lock`, and the file of its own locks, in place: a kill leaves the half of one, or an empty one. Such
    a file of locks, left by a command `dvc`, is as good as none: who held them is gone.
    """

    def open(self, path: str, mode: str = "r", encoding: str | None = None, **options) -> IO:
        """A file; one of text that is written anew is published as it is closed."""
        if mode in ("w", "w+"):
            return _Published(path, encoding)
        if Path(path).name == RWLOCK_FILE and not _is_object(Path(path)):
            raise FileNotFoundError(path)
        return super().open(path, mode, encoding=encoding, **options)


def _is_object(file: Path) -> bool:
    try:
        return isinstance(read_json(file), dict)
    except (OSError, ValueError):
        return False


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
