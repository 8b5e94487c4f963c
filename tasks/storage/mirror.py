"""Sample sets between object storage and a folder: mirrored here, or uploaded so that a reader sees all or nothing."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple

import boto3
from botocore.client import BaseClient
from botocore.config import Config

from ost.errors import DataError
from ost.store import digest, read_json, write_json
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
    folder, is refused, and the rest goes on. Raises DataError where nothing is left, or access is refused.
    """
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    with explained(address):
        listed = partial(_objects, _client(), bucket)
        objects = patiently(lambda: listed(key))
        if not objects:
            raise DataError(f"nothing is at {address}: give the key of a file, or a prefix with files under it")
        single = len(objects) == 1 and objects[0].key == key
        path = into / objects[0].name if single else into
        refused = _unsafe(objects)
        if single and not refused:
            refused = _mirror(objects, into, progress, whole=False)
            if not refused and (names := beside(path)):
                folder = key.rpartition("/")[0]
                objects += [one for one in patiently(lambda: listed(folder and f"{folder}/")) if one.name in names]
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
    found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
    if key and not key.endswith("/") and [one["Key"] for one in found] == [key]:
        prefix = key[: key.rfind("/") + 1]
    else:
        prefix = key.rstrip("/") + "/" if key else ""
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [one for page in pages for one in page.get("Contents", []) if not one["Key"].endswith("/")]
    return [
        StoredObject(client, bucket, one["Key"], one["Key"].removeprefix(prefix), one["Size"], one["ETag"])
        for one in found
    ]


def _unsafe(objects: list[StoredObject]) -> dict[str, str]:
    """Keys of the objects that nothing may be written for, and why."""
    remedy = "would lead out of its folder: rename the object, or give a narrower prefix"
    return {one.key: f"the key {one.key!r} {remedy}" for one in objects if not one.is_safe}


def _mirror(objects: list[StoredObject], into: Path, progress: Progress, whole: bool = True) -> dict[str, str]:
    """Bring a folder to what is listed, several objects at a time; returns which keys were refused, and why.

    `whole`: what is not listed is deleted.
    """
    record = into.with_name(into.name + ".etags.json")
    etags = read_json(record) if record.is_file() else {}
    if whole:
        gone = etags.keys() - {one.name for one in objects}
        for name in gone:
            (into / name).unlink(missing_ok=True)
            del etags[name]
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
                    for leftover in (one.name, f"{one.name}.part"):  # an older version, and this one
                        (into / leftover).unlink(missing_ok=True)
                    refused[one.key] = str(error)
                if time.monotonic() - written > 1:
                    write_json(record, etags)
                    written = time.monotonic()
                progress(done, len(objects), one.name)
        finally:
            pool.shutdown(cancel_futures=True)
            write_json(record, etags)
    for leftover in into.rglob(f".*{RANGES}*"):  # of a version that is no longer there
        leftover.unlink()
    return refused
