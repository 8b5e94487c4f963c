"""DVC: whether a stage is up to date, and taking what it left under version control. Alone in importing dvc."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TypeVar

from dvc.exceptions import DvcException
from dvc.repo import Repo
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from ost.errors import WorkspaceError
from ost.store import publish
from tasks.storage import explained, patiently

logging.getLogger("dvc").setLevel(logging.WARNING)  # each commit would announce its lock file
logging.getLogger("dvc.repo.status").setLevel(logging.ERROR)  # each status would announce what is frozen

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


def changed_inputs(root: Path, stage: str) -> set[str]:
    """Inputs of a stage, frozen or not, that are not as `dvc.lock` records them; `params.yaml` for its parameters."""

    def changed(repo: Repo) -> set[str]:
        one = repo.stage.load_one(name=stage)
        one.frozen = False  # here and now alone
        with repo.lock:
            found = one.status().get(stage, [])
        return {path for change in found if isinstance(change, dict) for path in change.get("changed deps", {})}

    return _ask(root, changed)


def freeze(root: Path, stage: str) -> None:
    """Let a stage count as up to date whatever becomes of its inputs, for `dvc repro` too: `frozen` in dvc.yaml.

    DVC's own call would write the whole file anew; this adds one line.
    """
    lines, own = _stage_lines(root, stage)
    if not own.get("frozen"):
        lines.insert(own.lc.line, " " * own.lc.col + "frozen: true")
        _write_lines(root, lines)


def thaw(root: Path, stage: str) -> None:
    """Undo `freeze`."""
    lines, own = _stage_lines(root, stage)
    if "frozen" in own:
        del lines[own.lc.key("frozen")[0]]
        _write_lines(root, lines)


def _stage_lines(root: Path, stage: str) -> tuple[list[str], CommentedMap]:
    text = (root / "dvc.yaml").read_text()
    return text.splitlines(), YAML().load(text)["stages"][stage]


def _write_lines(root: Path, lines: list[str]) -> None:
    with publish(root / "dvc.yaml") as part:
        part.write_text("\n".join(lines) + "\n")


def init(root: Path) -> None:
    """Make a folder a DVC workspace of its own, without git."""
    Repo.init(str(root), no_scm=True, force=False).close()


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
    with one_at_a_time, chdir(root):
        try:
            repo = Repo(str(root))
        except DvcException as error:
            raise WorkspaceError(f"{root} is no DVC workspace ({error}): run `dvc init` there first") from error
        try:
            yield repo
        finally:
            repo.close()
