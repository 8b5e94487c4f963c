"""One object of object storage: its bytes, checked against the server's checksum, as a file here."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from ost.errors import DataError
from ost.store import LONGEST_NAME, md5, publish, read_json, write_json
from tasks.storage.errors import patiently, status_of

CONNECTIONS = 8
"""Objects, or ranges of a large one, that are fetched at a time."""
RANGE = 16 << 20
"""Bytes above which an object is fetched in ranges, each of which outlives a transfer that breaks off."""
RANGES = ".ranges"
"""Ends the names of what has come of a large object; they are hidden."""
CHUNK = 1 << 20
ATTEMPTS = 3
"""Times that an object is fetched which comes with other bytes than the server says."""


class ChangedObject(DataError):
    """An object came with other bytes than the server says."""


@dataclass(frozen=True)
class StoredObject:
    """An object in a bucket, in the version that was listed."""

    client: BaseClient
    bucket: str
    key: str
    name: str
    """Where it belongs in the folder that it is brought to."""
    size: int
    etag: str

    @property
    def is_safe(self) -> bool:
        """Whether its name stays in the folder it is put into."""
        return not ({"", ".", ".."} & set(self.name.split("/")) or "\0" in self.name)

    @property
    def is_short(self) -> bool:
        """Whether each part of its name is one that a file system takes."""
        return all(len(part.encode()) <= LONGEST_NAME for part in self.name.split("/"))

    def is_in(self, folder: Path, etags: dict[str, str]) -> bool:
        """Whether this version lies in a folder already; `etags`: of what was brought there, by name."""
        path = folder / self.name
        return etags.get(self.name) == self.etag and path.is_file() and path.stat().st_size == self.size

    def download(self, path: Path) -> str:
        """Fetch it; returns the ETag of what came, which is another where the object was replaced meanwhile."""
        one = self
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with publish(path) as part:
                    one._verify(part, one._whole(part) if one.size <= RANGE else one._in_ranges(part))
                break
            except ChangedObject:
                if attempt == ATTEMPTS:
                    raise
                head = patiently(one._head)
                one = replace(one, size=head["ContentLength"], etag=head["ETag"])
        return one.etag

    def chunks(self, **asked: str) -> Iterator[bytes]:
        """Its bytes; raises ChangedObject where it is no longer the one that was listed."""
        try:
            body = self.client.get_object(Bucket=self.bucket, Key=self.key, IfMatch=self.etag, **asked)["Body"]
        except ClientError as error:
            if status_of(error) == 412:
                raise ChangedObject(f"{self.key} is being replaced just now: run again later") from error
            raise
        return body.iter_chunks(CHUNK)

    def _head(self) -> dict:
        return self.client.head_object(Bucket=self.bucket, Key=self.key)

    def _whole(self, part: Path) -> str:
        """Fetch it in one go; returns its MD5."""
        with part.open("w+b") as out:
            self._bring(out, 0, self.size)
            out.seek(0)
            return hashlib.file_digest(out, md5).hexdigest()

    def _bring(self, out: BinaryIO, start: int, stop: int) -> None:
        """Write the bytes of a range into their place; a transfer that breaks off goes on where it did."""
        out.seek(start)

        def rest() -> None:
            at = out.tell()
            all_of_it = at == 0 and stop == self.size
            if all_of_it or at < stop:
                for chunk in self.chunks(**({} if all_of_it else {"Range": f"bytes={at}-{stop - 1}"})):
                    out.write(chunk)

        patiently(rest, out.tell)

    def _in_ranges(self, part: Path) -> str:
        """Fetch it range by range, but for those that an earlier transfer of this version brought; returns its MD5."""
        version = hashlib.blake2b(f"{self.key} {self.etag}".encode(), digest_size=12).hexdigest()
        file, record = (part.parent / f".{version}{RANGES}{suffix}" for suffix in ("", ".json"))
        came = set(read_json(record)) if file.exists() and record.exists() else set()
        with file.open("ab") as whole:
            whole.truncate(self.size)
        one_at_a_time = threading.Lock()

        def fetch_range(start: int) -> None:
            if start in came:
                return
            with file.open("r+b") as out:
                self._bring(out, start, min(start + RANGE, self.size))
                out.flush()
                os.fsync(out.fileno())  # before it is said to be there
            with one_at_a_time:
                came.add(start)
                write_json(record, sorted(came))

        found = md5()
        with ThreadPoolExecutor(CONNECTIONS) as pool, file.open("rb", buffering=0) as arrived:
            for _ in pool.map(fetch_range, range(0, self.size, RANGE)):
                found.update(arrived.read(RANGE))
        file.replace(part)
        record.unlink()
        return found.hexdigest()

    def _verify(self, part: Path, found: str) -> None:
        """Raise ChangedObject where size or MD5 of what came are not those that were listed.

        An ETag is the MD5 of the bytes unless the object was uploaded in parts, or is encrypted under a key of its
        owner's; then boto3's own checksums of the transfer have to do.
        """
        size, expected = part.stat().st_size, self.etag.strip('"')
        if size != self.size:
            raise ChangedObject(
                f"{self.key} came as {size:,} bytes, listed were {self.size:,}: "
                "if it is being written just now, run again later"
            )
        if "-" not in expected and found != expected and "SSEKMSKeyId" not in patiently(self._head):
            raise ChangedObject(f"{self.key} came with other bytes than the server's checksum is of: upload it anew")
