"""Digests of large files, remembered: a pool of many gigabytes is not read again by every stage that names it."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ost.store import digest

LARGE = 1 << 20
"""Bytes from which on a file's digest is worth remembering."""
SETTLED = 2.0
"""Seconds for which a file must have been left alone: a change within one tick of the clock would not be seen."""


class Digests:
    """MD5 digests as `ost.store.digest` gives them, known by a file's place, size, inode and times of change.

    The second of these, when its inode changed, is one that nobody can set back, as `touch` and `rsync` do the first.

    Several processes may share the file that they are kept in.
    """

    def __init__(self, file: Path):
        self._file = file

    def of(self, path: Path) -> str:
        """Digest of a file or a folder."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._file, timeout=60, isolation_level=None)) as known:
            known.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, state TEXT, md5 TEXT)")
            return digest(path, lambda file: _of_file(file, known))


def _of_file(file: Path, known: sqlite3.Connection) -> str:
    facts = file.stat()
    if facts.st_size < LARGE or time.time() - max(facts.st_mtime, facts.st_ctime) < SETTLED:
        return digest(file)
    name, state = str(file.resolve()), f"{facts.st_size} {facts.st_ino} {facts.st_mtime_ns} {facts.st_ctime_ns}"
    row = known.execute("SELECT md5 FROM digests WHERE path = ? AND state = ?", (name, state)).fetchone()
    if row:
        return row[0]
    found = digest(file)
    known.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (name, state, found))
    return found
