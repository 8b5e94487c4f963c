"""Digests of large files are remembered, and never wrong."""

import os
import sqlite3
import time
from contextlib import closing

import pytest

from ost.store import digest
from tasks.stages import digests as digests_module
from tasks.stages.digests import LARGE, Digests


@pytest.fixture(autouse=True)
def a_minute_later(monkeypatch):
    """All that a test writes is settled when it is asked for."""
    monkeypatch.setattr(digests_module.time, "time", lambda now=time.time: now() + 60)


def aged(path, content: bytes):
    """A file whose time of change is set back by a minute, as `rsync` and `tar` do."""
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


def test_a_change_is_seen_though_its_time_is_set_back(tmp_path):
    file, known = aged(tmp_path / "file", b"a" * LARGE), Digests(tmp_path / "digests.db")
    state = file.stat()
    known.of(file)
    file.write_bytes(b"b" * LARGE)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert known.of(file) == digest(file)


def test_a_file_that_has_just_been_written_is_not_remembered(tmp_path, monkeypatch):
    """A second change within one tick of the clock would leave size and times as they were."""
    monkeypatch.setattr(digests_module, "SETTLED", 120)
    file, known = tmp_path / "file", Digests(tmp_path / "digests.db")
    file.write_bytes(b"a" * LARGE)
    known.of(file)
    with closing(sqlite3.connect(tmp_path / "digests.db")) as kept:
        assert kept.execute("SELECT count(*) FROM digests").fetchone() == (0,)
