"""DVC, the real one, in a small workspace without git."""

import io
import shutil
import threading
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from ost.errors import WorkspaceError
from ost.store import digest, read_json
from tasks import versioning

PIPELINE = """
stages:
  first:
    cmd: "false"
    deps: [source.txt]
    params: [number]
    outs: [made.txt, folder]
  second:
    cmd: "false"
    deps: [made.txt]
    outs: [last.txt]
    metrics:
      - metrics.json: { cache: false }
"""
"""Commands that fail: versioning only takes note of what stages left, and never runs one."""


@pytest.fixture
def workspace(tmp_path):
    versioning.init(tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text("number: 1\nother: 1\n")
    for name in ("source.txt", "made.txt", "last.txt", "metrics.json", "folder/a-b/c", "folder/a/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def committed(workspace):
    versioning.commit(workspace, "first")
    versioning.commit(workspace, "second")
    return workspace


def test_a_stage_is_stale_until_it_is_committed(workspace):
    assert versioning.stale_stages(workspace) == {"first", "second"}
    versioning.commit(workspace, "first")
    assert versioning.is_current(workspace, "first")
    assert not versioning.is_current(workspace, "second")
    assert versioning.stale_stages(workspace) == {"second"}


def test_the_lock_holds_our_digests_of_files_and_folders(committed):
    stages = yaml.safe_load((committed / "dvc.lock").read_text())["stages"]
    entries = [entry for stage in stages.values() for entry in [*stage["deps"], *stage["outs"]]]
    assert {entry["path"]: entry["md5"] for entry in entries} == {
        path: digest(committed / path) for path in ("source.txt", "made.txt", "folder", "last.txt", "metrics.json")
    }, "ost.store.digest and DVC disagree, so MLflow's tags would match nothing in dvc.lock"


@pytest.mark.parametrize(
    ("path", "text", "stale"),
    [
        ("source.txt", "changed", {"first"}),
        ("made.txt", "changed", {"first", "second"}),
        ("folder/a/b", "changed", {"first"}),
        ("metrics.json", "changed", {"second"}),
        ("params.yaml", "number: 2\nother: 1\n", {"first"}),
        ("params.yaml", "number: 1\nother: 2\n", set()),
    ],
)
def test_a_change_makes_those_stages_stale_that_read_or_wrote_it(committed, path, text, stale):
    (committed / path).write_text(text)
    assert versioning.stale_stages(committed) == stale
    assert {name for name in ("first", "second") if not versioning.is_current(committed, name)} == stale


def test_a_deleted_output_makes_its_stage_stale(committed):
    (committed / "last.txt").unlink()
    assert versioning.stale_stages(committed) == {"second"}


def test_threads_that_commit_at_once_wait_for_each_other(workspace):
    failures = []

    def commit(stage: str) -> None:
        try:
            versioning.commit(workspace, stage)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=commit, args=(stage,)) for stage in ("first", "second") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [], "two writers met DVC's lock"
    assert versioning.stale_stages(workspace) == set()


def test_a_folder_without_dvc_is_told_what_to_do(tmp_path):
    with pytest.raises(WorkspaceError, match="run `dvc init`"):
        versioning.stale_stages(tmp_path)


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock"])
def test_dvc_never_leaves_half_of_its_own_files(committed, monkeypatch, name):
    """What a kill leaves, told by an error in its place: it comes as DVC has written half of a file."""
    before = (committed / name).read_text()
    whole = io.StringIO.write

    def half(self, text: str) -> int:
        whole(self, text[: len(text) // 2])
        raise KeyboardInterrupt

    (committed / "made.txt").write_text("made anew")
    with monkeypatch.context() as patched:
        patched.setattr(versioning._Published, "write", half, raising=False)
        with pytest.raises(KeyboardInterrupt):
            versioning.commit(committed, "second")
    assert (committed / name).read_text() == before
    versioning.commit(committed, "second")
    assert versioning.is_current(committed, "second")


@pytest.mark.parametrize(
    "content", ["", '{"write": {"made', "null", "[]", "\0" * 20], ids=["empty", "half", "null", "a list", "zeros"]
)
def test_locks_that_a_kill_of_dvc_tore_are_nobodys(content, committed):
    (committed / ".dvc/tmp/rwlock").write_text(content)
    assert versioning.stale_stages(committed) == set()
    (committed / "made.txt").write_text("made anew")
    versioning.commit(committed, "second")
    assert versioning.is_current(committed, "second")
    assert not any(read_json(committed / ".dvc/tmp/rwlock").values())


@pytest.mark.parametrize("name", ["lock", "rwlock.lock", "btime"])
@pytest.mark.parametrize("content", [b"", b"\0x"])
def test_what_dvc_only_locks_may_hold_anything(content, name, committed):
    (committed / ".dvc/tmp" / name).write_bytes(content)
    assert versioning.stale_stages(committed) == set()


@pytest.mark.parametrize("name", ["hashes/local/cache.db", "links/cache.db"])
def test_digests_of_dvc_that_are_damaged_are_told(name, committed):
    with Repo(str(committed)) as repo:
        folder = Path(repo.site_cache_dir)
    (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    with pytest.raises(WorkspaceError, match=f"delete {folder.parent}, which it makes anew"):
        versioning.stale_stages(committed)
    shutil.rmtree(folder)
    assert versioning.stale_stages(committed) == set()


@pytest.mark.parametrize("content", ["", "schema: '2.0'\nstages:\n  first:\n    cm", "a: [b"])
def test_a_lock_that_a_kill_of_dvc_tore_is_told(content, committed):
    (committed / "dvc.lock").write_text(content)
    with pytest.raises(WorkspaceError, match=r"take dvc\.lock back from git, or delete it"):
        versioning.stale_stages(committed)
    (committed / "dvc.lock").unlink()
    assert versioning.stale_stages(committed) == {"first", "second"}
