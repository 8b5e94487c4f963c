"""Artifacts: whole or not at all, and under the digest that DVC gives them."""

import itertools
import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from dvc.repo import Repo
from hypothesis import given, settings
from hypothesis import strategies as st

from ost.store import LONGEST_NAME, digest, publish, read_json, read_table, recover, remove, write_json, write_table

# --- publishing -------------------------------------------------------------------------------------------------------


def content(path: Path) -> dict | bytes | None:
    """A file's bytes, a folder's files by name, or None where nothing is."""
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return path.read_bytes() if path.is_file() else None


def put(path: Path, value: dict | bytes | None) -> None:
    if isinstance(value, bytes):
        path.write_bytes(value)
    for name, data in value.items() if isinstance(value, dict) else ():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


FORMS = [b"old", {"a": b"1", "inner/b": b"2"}]


@pytest.mark.parametrize("new", [b"new", {"c": b"3", "other/d": b"4"}], ids=["a file", "a folder"])
@pytest.mark.parametrize("old", [None, *FORMS], ids=["nothing", "a file", "a folder"])
def test_what_is_published_replaces_all_of_what_was(old, new, tmp_path):
    path = tmp_path / "target"
    put(path, old)
    with publish(path) as part:
        put(part, new)
        assert content(path) == old, "the target changed before its successor was whole"
    assert content(path) == new
    assert [child.name for child in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("old", [None, *FORMS], ids=["nothing", "a file", "a folder"])
@pytest.mark.parametrize("half", [b"half", {"c": b"half"}, None], ids=["a file", "a folder", "nothing"])
def test_a_failed_publication_changes_nothing(old, half, tmp_path):
    path = tmp_path / "target"
    put(path, old)

    def write_half() -> None:
        with publish(path) as part:
            put(part, half)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert content(path) == old, "the old artifact is lost, or a broken one stands in its place"


@pytest.mark.parametrize("left", FORMS, ids=["a file", "a folder"])
def test_what_a_killed_process_left_is_not_published_and_goes(left, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_dies_publishing, args=(tmp_path / "target", left))
    process.start()
    process.join()
    (torn,) = tmp_path.iterdir()
    assert torn.name.endswith(".part") and content(torn) == left
    with publish(tmp_path / "target") as part:
        put(part, {"c": b"3"})
    assert content(tmp_path / "target") == {"c": b"3"}
    assert [child.name for child in tmp_path.iterdir()] == ["target"], "what was left fills the disk"


def _dies_publishing(path: Path, value: bytes | dict) -> None:
    with publish(path) as part:
        put(part, value)
        os._exit(1)


@pytest.mark.parametrize("again", [False, True], ids=["recovered", "published again"])
@pytest.mark.parametrize("new", [b"new", {"c": b"3", "other/d": b"4"}], ids=["a file", "a folder"])
@pytest.mark.parametrize("old", FORMS, ids=["a file", "a folder"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new(old, new, again, tmp_path):
    steps, ended, seen = 0, 1, set()
    while ended:
        path = tmp_path / str(steps) / "target"
        path.parent.mkdir()
        put(path, old)
        process = multiprocessing.get_context("fork").Process(target=_dies_at, args=(path, new, steps))
        process.start()
        process.join()
        ended, steps = process.exitcode, steps + 1
        recover(path)
        seen.add(str(content(path)))
        assert content(path) in (old, new), f"killed at step {steps}, both were lost"
        if again:
            with publish(path) as part:
                put(part, new)
            assert content(path) == new
        assert [child.name for child in path.parent.iterdir()] == ["target"], "what was left fills the disk"
    assert steps > 3 and seen == {str(old), str(new)}


def _dies_at(path: Path, value: bytes | dict, step: int) -> None:
    """Publish, but for a kill at one of the calls that change what lies on the disk."""
    calls = itertools.count()

    def or_die(call):
        return lambda *args, **options: os._exit(1) if next(calls) == step else call(*args, **options)

    for module, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (os, "unlink"), (shutil, "rmtree")):
        setattr(module, name, or_die(getattr(module, name)))
    with publish(path) as part:
        put(part, value)


def test_what_is_published_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: [done.append(str(Path(f"/proc/self/fd/{file}").readlink())), fsync(file)]
    )
    monkeypatch.setattr(os, "replace", lambda *names: [done.append("named"), replace(*names)])
    with publish(tmp_path / "target") as part:
        part.write_bytes(b"new")
    assert done == [str(part), "named", str(tmp_path)]


def test_a_folder_that_is_replaced_is_a_link_no_more(tmp_path):
    """DVC may leave links into its cache in place of folders."""
    put(tmp_path / "cache", FORMS[1])
    (tmp_path / "target").symlink_to("cache")
    with publish(tmp_path / "target") as part:
        put(part, {"c": b"3"})
    assert content(tmp_path / "target") == {"c": b"3"} and content(tmp_path / "cache") == FORMS[1]
    assert sorted(child.name for child in tmp_path.iterdir()) == ["cache", "target"]


def test_a_name_as_long_as_may_be_is_published(tmp_path):
    path = tmp_path / ("n" * LONGEST_NAME)
    with publish(path) as part:
        part.write_bytes(b"new")
    assert content(path) == b"new" and len(list(tmp_path.iterdir())) == 1


def test_two_that_publish_one_file_at_once_tear_nothing(tmp_path):
    """Each finds its own part whole, however they overtake one another; the last to end wins."""
    path, first, second = tmp_path / "target", b"a" * 1000, b"b" * 1000
    with ThreadPoolExecutor(1) as other, publish(path) as part:
        part.write_bytes(first[:500])
        with publish(tmp_path / "target-2") as another:  # of another path with a name alike
            another.write_bytes(b"")
        other.submit(_publish, path, second).result()
        assert content(path) == second, "its part was this one's, or gone"
        with part.open("ab") as stream:
            stream.write(first[500:])
    assert content(path) == first
    assert not list(tmp_path.glob("*.part"))


def test_two_processes_that_publish_one_file_again_and_again_tear_nothing(tmp_path):
    path, values = tmp_path / "target", [letter * 100_000 for letter in (b"a", b"b")]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_publish, args=(path, value, 100)) for value in values]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert content(path) in (None, *values), "a torn file was read"
    assert [writer.exitcode for writer in writers] == [0, 0], "one took the other's part away"
    assert [child.name for child in tmp_path.iterdir()] == ["target"]


def _publish(path: Path, value: bytes, times: int = 1) -> None:
    for _ in range(times):
        with publish(path) as part:
            part.write_bytes(value)


def test_folders_on_the_way_are_made(tmp_path):
    write_json(tmp_path / "a" / "b" / "c.json", {})
    assert read_json(tmp_path / "a" / "b" / "c.json") == {}


def test_removing_takes_a_file_a_folder_or_nothing(tmp_path):
    for form in (*FORMS, None):
        put(tmp_path / "x", form)
        remove(tmp_path / "x")
        assert not (tmp_path / "x").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(value=JSON)
def test_json_is_read_back(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_a_table_is_read_back(tmp_path):
    table = pa.table({"id": ["a", "b"], "utility": [1.0, float("nan")], "rank": pa.array([1, None], pa.int32())})
    write_table(tmp_path / "table.parquet", table)
    assert str(read_table(tmp_path / "table.parquet").to_pylist()) == str(table.to_pylist())


# --- digests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dvc(tmp_path_factory):
    """What DVC itself says about a path's content: add it, and read the digest that stands in the .dvc file."""
    root = tmp_path_factory.mktemp("repo")
    with Repo.init(str(root), no_scm=True) as repo:

        def md5(name: str, value: dict | bytes) -> tuple[str, Path]:
            put(root / name, value)
            (stage,) = repo.add(str(root / name))
            return yaml.safe_load(Path(stage.path).read_text())["outs"][0]["md5"], root / name

        yield md5


DVC_CASES = {
    "a text file": b"one\ntwo\n",
    "line ends of another system": b"one\r\ntwo\r\n",
    "an empty file": b"",
    "a large file": bytes(range(256)) * 20_000,
    "a flat folder": {"b": b"2", "a": b"1"},
    "a nested folder": {"z/y/x": b"1", "z/a": b"2", "a": b"3"},
    "names that sort differently as text and as paths": {"a/b": b"1", "a-b/c": b"2", "a.txt": b"3", "a b/c": b"4"},
    "names beyond ASCII": {"größe/数字.txt": b"1", "Zoë": b"2", "zoe": b"3"},
    "hidden and empty files": {".hidden": b"1", "inner/.gitkeep": b"", "twin": b"1"},
    "a checkpoint's files": {"config.json": b"{}", "model.safetensors": b"\0" * 99, "tokenizer/vocab.json": b"{}"},
}


@pytest.mark.parametrize("name", DVC_CASES)
def test_a_digest_is_the_one_that_dvc_writes(name, dvc):
    expected, path = dvc(name.replace(" ", "-"), DVC_CASES[name])
    assert digest(path) == expected, "dvc status would call a stage changed that the flow has just run"


def test_a_digest_changes_with_content_and_names(tmp_path):
    folders = [{"a": b"1", "b": b"2"}, {"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"1"}, {"x/a": b"1"}]
    for index, value in enumerate(folders):
        put(tmp_path / str(index), value)
    assert len({digest(tmp_path / str(index)) for index in range(len(folders))}) == len(folders)
