"""Sample sets between object storage and a folder: mirrored here, or uploaded so that a reader sees all or nothing."""

import errno
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import boto3
from botocore.client import BaseClient
from botocore.config import Config

from ost.errors import DataError
from ost.store import LONGEST_NAME, digest, read_json, write_json
from ost.types import Progress, silent
from tasks.storage import SCHEME
from tasks.storage.errors import explained, patiently
from tasks.storage.transfer import CONNECTIONS, RANGES, ChangedObject, StoredObject

CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard", "max_attempts": 3},  # for what passes at once; `patiently` waits for the rest
    max_pool_connections=64,
)
NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR)
"""What a file system answers to a name that it cannot give to a file."""


class Fetched(NamedTuple):
    """What was brought here."""

    path: Path
    """The file, or the folder."""
    refused: list[str]
    """Why objects under the prefix were left out, one entry each."""


def fetch(
    address: str,
    into: Path,
    progress: Progress = silent,
    beside: Callable[[Path], Collection[str]] = lambda file: (),
) -> Fetched:
    """Mirror a file, or all that lies under a prefix, into the folder `into`.

    `beside`: given a file that was brought, the relative names of what belongs to it, which is mirrored with it. What
    is there already in the same version is not fetched again, and what is no longer at the address is deleted.
    Several objects come at a time, checked against the server's checksums; a large one goes on where it broke off. A
    server that does not answer is waited for. Of several objects one that comes damaged, or whose key would leave the
    folder or names no file, is refused, and the rest goes on. Raises DataError where nothing is left, or access is
    refused.
    """
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    with explained(address):
        listed = partial(_objects, _client(), bucket)
        objects = listed(key)
        if not objects:
            raise DataError(f"nothing is at {address}: give the key of a file, or a prefix with files under it")
        single = len(objects) == 1 and objects[0].key == key
        path = into / objects[0].name if single else into
        refused = _unsafe(objects)
        if single and not refused:
            refused = _mirror(objects, into, progress, whole=False)
            if not refused and (names := beside(path)):
                folder = key.rpartition("/")[0]
                objects += [one for one in listed(folder and f"{folder}/") if one.name in names]
                refused = _unsafe(objects)
        if inside := [one for one in objects if one.key not in refused]:
            refused |= _mirror(inside, into, progress)
        if len(refused) == len(objects):
            raise DataError(next(iter(refused.values())))
    return Fetched(path, [why for _, why in sorted(refused.items())])


def publish_files(files: Mapping[str, Path], address: str, name: str, progress: Progress = silent) -> None:
    """Upload files under `address/name/`, then let `address/latest.json` name them, with digests and sizes.

    Who reads latest.json first sees all of them or those of before. Raises DataError where access is refused.
    """
    bucket, _, prefix = address.rstrip("/").removeprefix(SCHEME).partition("/")
    place = f"{prefix}/" if prefix else ""
    with explained(address, "write to"):
        client, known = _client(), {}
        for done, (path, file) in enumerate(files.items(), start=1):
            key = f"{place}{name}/{path}"
            patiently(partial(client.upload_file, str(file), bucket, key))
            known[path] = {"key": key, "md5": digest(file), "bytes": file.stat().st_size}
            progress(done, len(files), path)
        body = json.dumps({"name": name, "files": known}, indent=2).encode()
        last = {"Bucket": bucket, "Key": f"{place}latest.json", "Body": body, "ContentType": "application/json"}
        patiently(partial(client.put_object, **last))


def _client() -> BaseClient:
    """A client of a session of its own: the default session would keep the credentials that it saw first."""
    return boto3.session.Session().client("s3", config=CONFIG)


def _objects(client: BaseClient, bucket: str, key: str) -> list[StoredObject]:
    """The object with this key, else those under it as a folder."""
    # Of all keys that start with a key, itself comes first.
    first = patiently(partial(client.list_objects_v2, Bucket=bucket, Prefix=key, MaxKeys=1))
    found = first.get("Contents", [])
    if key and not key.endswith("/") and [one["Key"] for one in found] == [key]:
        prefix = key[: key.rfind("/") + 1]
    else:
        prefix = key.rstrip("/") + "/" if key else ""
        found = [one for one in _under(client, bucket, prefix) if not one["Key"].endswith("/")]
    return [
        StoredObject(client, bucket, one["Key"], one["Key"].removeprefix(prefix), one["Size"], one["ETag"])
        for one in found
    ]


def _under(client: BaseClient, bucket: str, prefix: str) -> Iterator[dict]:
    """What the server lists under a prefix; each page of it is waited for by itself."""
    more: dict[str, str] = {}
    while True:
        page = patiently(partial(client.list_objects_v2, Bucket=bucket, Prefix=prefix, **more))
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _unsafe(objects: list[StoredObject]) -> dict[str, str]:
    """Keys of the objects that nothing may be written for, and why."""
    names = {one.name for one in objects}
    found = {}
    for one in objects:
        why = None
        if not one.is_safe:
            why = "would lead out of its folder"
        elif not one.is_short:
            why = f"has a part of more than {LONGEST_NAME} bytes, which is no file's name"
        elif above := next((str(folder) for folder in PurePosixPath(one.name).parents if str(folder) in names), None):
            why = f"lies under {above!r}, which is an object too, and no folder"
        if why:
            found[one.key] = f"the key {one.key!r} {why}: rename the object, or give a narrower prefix"
    return found


def _mirror(objects: list[StoredObject], into: Path, progress: Progress, whole: bool = True) -> dict[str, str]:
    """Bring a folder to what is listed, several objects at a time; returns which keys were refused, and why.

    `whole`: what is not listed is deleted.
    """
    record = into.with_name(into.name + ".etags.json")
    etags = read_json(record) if record.is_file() else {}
    if whole:
        names = {one.name for one in objects}
        _remove_others(into, names, ranges=False)  # with which a large object goes on
        etags = {name: etag for name, etag in etags.items() if name in names}
    due = [one for one in objects if not one.is_in(into, etags)]
    progress(len(objects) - len(due), len(objects), into.name)
    refused, written = {}, 0.0
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        fetched = {pool.submit(one.download, into / one.name): one for one in due}
        try:
            for done, future in enumerate(as_completed(fetched), start=len(objects) - len(due) + 1):
                one = fetched[future]
                try:
                    etags[one.name] = future.result()
                except ChangedObject as error:
                    (into / one.name).unlink(missing_ok=True)  # an older version
                    etags.pop(one.name, None)
                    refused[one.key] = str(error)
                except OSError as error:
                    if error.errno not in NAMES:
                        raise
                    refused[one.key] = f"no file can be named as the key {one.key!r} ({error.strerror}): rename it"
                if time.monotonic() - written > 1:
                    write_json(record, etags)
                    written = time.monotonic()
                progress(done, len(objects), one.name)
        finally:
            pool.shutdown(cancel_futures=True)
            write_json(record, etags)
    _remove_others(into, {one.name for one in objects}, ranges=True)  # of versions that are no longer there
    return refused


def _remove_others(folder: Path, names: Collection[str], ranges: bool) -> None:
    """Delete files that have none of these names, however they came: the ranges of large objects, or all others."""
    for file in folder.rglob("*"):
        listed = file.relative_to(folder).as_posix() in names
        if not (listed or file.is_dir()) and (RANGES in file.name) == ranges:
            file.unlink()
