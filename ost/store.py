"""Artifacts on disk: published whole or not at all, each with a manifest beside it."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PART, OLD = ".part", ".old.part"
"""End the names of what is being published, and of the folder that it takes the place of."""
LONGEST_NAME = 255
"""Bytes that a file's name may have."""
MOST_FSYNCS = 64
"""Files of a folder up to which each is brought to the disk by itself; for more, all that the system holds is."""


@contextlib.contextmanager
def publish(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` that ends in `.part`, and rename it to `path` once the block ends without an error.

    Works for a file and for a folder (then the block makes the folder); an older `path` is replaced. The part is this
    thread's own: of several that publish one path the last to end wins, and none sees another's half. What is published
    is on the disk before it has its name, and its name when this returns: no kill and no loss of power leaves less than
    the older or the newer one. Between two renames an older folder has another name: see `recover`.
    """
    path = Path(path)
    mine = f".{_host()}-{os.getpid()}-{threading.get_native_id()}"
    part, old = (path.with_name(_stem(path) + mine + suffix) for suffix in (PART, OLD))
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    try:
        yield part
        if path.is_dir() or part.is_dir():  # a rename replaces only a file, and only by a file
            _bring_to_disk(part)
            _exchange(path, part, old)
            _fsync(path.parent)
            remove(old)
        else:
            name_file(part, path)
    finally:
        remove(part)


def name_file(part: Path, path: Path) -> None:
    """Rename a file that is written to its end, once it is on the disk; the name is there when this returns."""
    _fsync(part)
    part.replace(path)
    _fsync(path.parent)


def recover(path: str | Path) -> None:
    """Bring to an end what processes of this machine were doing that were killed while they published `path`.

    Where a folder was on its way out it is replaced, since its successor was whole; all else that they left goes.
    """
    path = Path(path)
    own = f"{_stem(path)}.{_host()}-"
    left = [one for one in path.parent.glob(f"{glob.escape(own)}*{PART}") if not _is_at_work(one.name[len(own) :])]
    for old in [one for one in left if one.name.endswith(OLD) and not path.exists()]:
        part = old.with_name(old.name.removesuffix(OLD) + PART)
        with contextlib.suppress(FileNotFoundError):  # another process has just done so
            (part if part.exists() else old).rename(path)
    for one in left:
        remove(one)


def _exchange(path: Path, part: Path, old: Path) -> None:
    """Give a part the name of a folder, or a folder the name of whatever stands there."""
    with contextlib.suppress(FileNotFoundError):  # there is no older one
        path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise


def _bring_to_disk(part: Path) -> None:
    """Wait until a file, or all of a folder, would outlast a loss of power."""
    inside = list(part.rglob("*"))
    if len(inside) > MOST_FSYNCS:
        os.sync()
    else:
        for one in [*inside, part]:
            _fsync(one)


def _fsync(path: Path) -> None:
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    """This machine, in letters and digits."""
    return "".join(filter(str.isalnum, socket.gethostname()))


def _stem(path: Path) -> str:
    """What the names of a path's parts begin with: its own, or a digest of one that leaves no room for more."""
    return path.name if len(os.fsencode(path.name)) + 128 <= LONGEST_NAME else md5(os.fsencode(path.name)).hexdigest()


def _is_at_work(owner: str) -> bool:
    """Whether another thread runs that a part is named after: PROCESS-THREAD, and what is behind the first dot."""
    process, _, thread = owner.partition(".")[0].partition("-")
    if (process, thread) == (str(os.getpid()), str(threading.get_native_id())):
        return False
    return not process.isdecimal() or _is_running(int(process))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def remove(path: Path) -> None:
    """Delete a file, a link or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Publish `value` as indented JSON with a final newline."""
    with publish(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Parse a JSON file."""
    return json.loads(Path(path).read_text())


def digest(path: str | Path, of_file: Callable[[Path], str] | None = None) -> str:
    """MD5 of a file, or of a folder's listing with `.dir` appended: the digests that DVC writes into `dvc.lock`.

    `of_file`: how the digest of one file is found, where that is not by reading it.
    """
    path = Path(path)
    if path.is_file():
        return (of_file or _md5_of)(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    # Sorted as text, "a-b/c" before "a/c": the order that DVC hashes them in.
    listing = [{"md5": digest(files[name], of_file), "relpath": name} for name in sorted(files)]
    return md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def _md5_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, md5).hexdigest()


def md5(data: bytes = b"") -> "hashlib._Hash":
    """MD5 of some bytes, as a digest and for no secret."""
    return hashlib.md5(data, usedforsecurity=False)


def write_table(path: str | Path, table: pa.Table) -> None:
    """Publish a table as Parquet."""
    with publish(path) as part:
        pq.write_table(table, part)


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Load a Parquet table, or some of its columns."""
    return pq.read_table(path, columns=columns)


def matrix(rows: pa.Table, name: str) -> np.ndarray:
    """A column of lists as an array (N, length of the lists)."""
    column = rows[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(rows), -1)


def lists(values: np.ndarray) -> pa.FixedSizeListArray:
    """An array (N, d) as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
