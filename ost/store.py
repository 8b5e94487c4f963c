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


@contextlib.contextmanager
def publish(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` that ends in `.part`, and rename it to `path` once the block ends without an error.

    Works for a file and for a folder (then the block makes the folder); an older `path` is replaced. The part is this
    thread's own: of several that publish one path the last to end wins, and none sees another's half.
    """
    path = Path(path)
    host, process = _here()
    part = path.with_name(f"{path.name}.{host}-{process}-{threading.get_native_id()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    try:
        yield part
        if path.is_dir() or part.is_dir():
            remove(path)  # a rename replaces only a file, and only by a file
        part.replace(path)
    finally:
        remove(part)


def _here() -> tuple[str, int]:
    """This machine, in letters and digits, and this process."""
    return "".join(filter(str.isalnum, socket.gethostname())), os.getpid()


def _sweep(path: Path) -> None:
    """Remove what processes of this machine have left of `path` that were killed while they published it."""
    host, _ = _here()
    for left in path.parent.glob(f"{glob.escape(path.name)}.{host}-*.part"):
        process = left.name.removeprefix(f"{path.name}.{host}-").partition("-")[0]
        if process.isdecimal() and not _is_running(int(process)):
            remove(left)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir():
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
