"""Digests of large files are remembered, and never wrong."""

import os

from ost import store
from ost.store import digest
from tasks.stages import digests as digests_module
from tasks.stages.digests import LARGE, Digests


def aged(path, content: bytes):
    """A file that was last changed a minute ago."""
    path.write_bytes(content)
    os.utime(path, (path.stat().st_mtime - 60,) * 2)
    return path


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    large, small = aged(tmp_path / "set/large", b"a" * LARGE), aged(tmp_path / "set/small", b"b")
    known, read = Digests(tmp_path / "known/digests.db"), []
    monkeypatch.setattr(digests_module, "digest", lambda path, *rest: read.append(path) or digest(path, *rest))
    for _ in range(2):
        assert known.of(tmp_path / "set") == digest(tmp_path / "set")
    assert read.count(large) == 1 and read.count(small) == 2


def test_a_change_is_seen(tmp_path):
    file, known = aged(tmp_path / "file", b"a" * LARGE), Digests(tmp_path / "digests.db")
    before = known.of(file)
    aged(file, b"b" * LARGE)
    os.utime(file, (file.stat().st_mtime + 5,) * 2)
    assert known.of(file) == digest(file) != before


def test_a_file_that_has_just_been_written_is_not_remembered(tmp_path):
    """A second change within one tick of the clock would leave size and time as they were."""
    file, known = tmp_path / "file", Digests(tmp_path / "digests.db")
    file.write_bytes(b"a" * LARGE)
    state = file.stat()
    known.of(file)
    file.write_bytes(b"b" * LARGE)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert known.of(file) == store.digest(file)
