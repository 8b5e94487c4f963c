"""Files as streams of bytes, unpacked where their name ends in .gz or .zst, and never without bound."""

import contextlib
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

MOST_UNPACKED, MOST_UNPACKED_RATIO = 1 << 28, 1000
"""Unpacked bytes, and times the packed size, beyond both of which content is taken for a decompression bomb."""

MOST_WINDOW = 1 << 27
"""Bytes that a zstd frame may ask to be kept; what the `zstd` command takes without --long=31."""

PACKED = (".gz", ".zst")

DAMAGE = (OSError, EOFError, ValueError, OverflowError, zlib.error, zstandard.ZstdError, tarfile.TarError)
"""What reading raises at damaged bytes."""

_BUFFER = 1 << 20


class _Bounded(io.RawIOBase):
    """An unpacking stream that ends in an OSError where it would grow without bound."""

    def __init__(self, stream: io.RawIOBase, most: int):
        self._stream, self._left = stream, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        count = self._stream.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise OSError("it would unpack to far more bytes than any data does")
        return count


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, unpacked; reading raises one of DAMAGE where they are damaged."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(file.open("rb", buffering=_BUFFER))
        if file.suffix.lower() in (*PACKED, ".tgz"):
            if file.suffix.lower() == ".zst":
                packed = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW)
                unpacked = stack.enter_context(packed.stream_reader(stream, read_across_frames=True))
            else:
                unpacked = stack.enter_context(gzip.GzipFile(fileobj=stream))
            most = max(MOST_UNPACKED, MOST_UNPACKED_RATIO * file.stat().st_size)
            stream = io.BufferedReader(_Bounded(unpacked, most), _BUFFER)
        yield stream


@contextlib.contextmanager
def packed(target: Path) -> Iterator[BinaryIO]:
    """A file to write to, packed as its name says; without the time, so that the same records are the same file."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(target.open("wb"))
        if target.suffix.lower() in (".gz", ".tgz"):
            stream = stack.enter_context(gzip.GzipFile("", "wb", fileobj=stream, mtime=0))
        elif target.suffix.lower() == ".zst":
            stream = stack.enter_context(zstandard.ZstdCompressor().stream_writer(stream))
        yield stream
