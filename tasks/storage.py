"""Sample sets in S3-compatible object storage, under `s3://bucket/key`. Alone in importing boto3.

Endpoint and credentials come from the environment, where boto3 and DVC alike look for them: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE.
"""

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import boto3
from boto3.exceptions import Boto3Error, S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from ost.errors import DataError
from ost.store import digest, md5, publish, read_json, write_json
from ost.types import Progress, silent

log = logging.getLogger(__name__)

SCHEME = "s3://"
Result = TypeVar("Result")

CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard", "max_attempts": 3},  # for what passes at once; `patiently` waits for the rest
    max_pool_connections=64,
)

CONNECTIONS = 8
"""Objects, or ranges of a large one, that are fetched at a time."""
RANGE = 16 << 20
"""Bytes above which an object is fetched in ranges, each of which outlives a transfer that breaks off."""
RANGES = ".ranges"
"""Ends the names of what has come of a large object; they are hidden."""
CHUNK = 1 << 20
PATIENCE, PAUSE = 180.0, 3.0
"""Seconds for which a server that is down is waited for, and between two tries."""
ATTEMPTS = 3
"""Times that an object is fetched which comes with other bytes than the server says."""

UNREACHABLE = (ConnectionError, HTTPClientError, IncompleteReadError)
OUTAGES = (*UNREACHABLE, ClientError, S3UploadFailedError)
"""What an outage may be raised as; see `is_outage`."""

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to some that may"

REMEDIES = {
    "NoSuchBucket": "there is no such bucket: check its name, and AWS_ENDPOINT_URL",
    "AccessDenied": f"these credentials may not: {_KEYS}",
    "InvalidAccessKeyId": f"nobody there knows this access key: {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is not this access key's: {_KEYS}",
    "ExpiredToken": "the session token has expired: sign in anew",
}
"""What to do about a refusal, by its code. The server's own words are left out: they may quote the credentials."""


def is_remote(path: str) -> bool:
    """Whether a path is an address in object storage."""
    return path.startswith(SCHEME)


class Fetched(NamedTuple):
    """What was brought here."""

    path: Path
    """The file, or the folder."""
    refused: list[str]
    """Why objects under the prefix were left out, one entry each."""


class _Unlike(DataError):
    """An object came with other bytes than the server says."""


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
        client = _client()
        objects = patiently(lambda: _objects(client, bucket, key))
        if not objects:
            raise DataError(f"nothing is at {address}: give the key of a file, or a prefix with files under it")
        refused = {one["Key"]: _leaves_folder(one) for one in objects if not _is_safe(one["Name"])}
        single = len(objects) == 1 and objects[0]["Key"] == key
        path = into / objects[0]["Name"] if single else into
        if single and not refused:
            refused |= _mirror(client, bucket, objects, into, progress, whole=False)
            names = beside(path) if not refused else ()
            objects += [one for one in _siblings(client, bucket, key) if one["Name"] in names] if names else []
        inside = [one for one in objects if one["Key"] not in refused]
        if inside:
            refused |= _mirror(client, bucket, inside, into, progress)
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
        client = _client()
        for done, (path, file) in enumerate(files.items(), start=1):
            patiently(partial(client.upload_file, str(file), bucket, f"{place}{name}/{path}"))
            progress(done, len(files), path)
        known = {
            path: {"key": f"{place}{name}/{path}", "md5": digest(file), "bytes": file.stat().st_size}
            for path, file in files.items()
        }
        body = json.dumps({"name": name, "files": known}, indent=2).encode()
        last = {"Bucket": bucket, "Key": f"{place}latest.json", "Body": body, "ContentType": "application/json"}
        patiently(partial(client.put_object, **last))


def _client():
    """A client of a session of its own: the default session would keep the credentials that it saw first."""
    return boto3.session.Session().client("s3", config=CONFIG)


def _objects(client, bucket: str, key: str) -> list[dict]:
    """The object with this key, else those under it as a folder; `Name` is where each belongs in that folder."""
    # Of all keys that start with a key, itself comes first.
    first = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
    if key and not key.endswith("/") and [one["Key"] for one in first] == [key]:
        return [first[0] | {"Name": key.rpartition("/")[2]}]
    prefix = key.rstrip("/") + "/" if key else ""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    listed = [one for page in pages for one in page.get("Contents", []) if not one["Key"].endswith("/")]
    return [one | {"Name": one["Key"].removeprefix(prefix)} for one in listed]


def _siblings(client, bucket: str, key: str) -> list[dict]:
    """What lies in an object's folder, or below it."""
    folder = key.rpartition("/")[0]
    return patiently(lambda: _objects(client, bucket, f"{folder}/" if folder else ""))


def _is_safe(name: str) -> bool:
    """Whether a name stays in the folder it is put into."""
    return not ({"", ".", ".."} & set(name.split("/")) or "\0" in name)


def _leaves_folder(one: dict) -> str:
    return f"the key {one['Key']!r} would lead out of its folder: rename the object, or give a narrower prefix"


def _mirror(
    client, bucket: str, objects: list[dict], into: Path, progress: Progress, whole: bool = True
) -> dict[str, str]:
    """Bring a folder to what is listed, several objects at a time; returns which keys were refused, and why.

    `whole`: what is not listed is deleted.
    """
    record = into.with_name(into.name + ".etags.json")
    have = read_json(record) if record.is_file() else {}
    wanted = {one["Name"]: one["ETag"] for one in objects}
    if whole:
        for gone in have.keys() - wanted.keys():
            (into / gone).unlink(missing_ok=True)
        have = {name: etag for name, etag in have.items() if name in wanted}
    due = [one for one in objects if not _is_here(one, into / one["Name"], have)]
    progress(len(objects) - len(due), len(objects), into.name)
    refused, written = {}, 0.0
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        fetched = {pool.submit(_download, client, bucket, one, into / one["Name"]): one for one in due}
        try:
            for left, future in zip(reversed(range(len(due))), as_completed(fetched), strict=True):
                one = fetched[future]
                try:
                    have[one["Name"]] = future.result()
                except _Unlike as error:
                    for leftover in (one["Name"], f"{one['Name']}.part"):  # an older version, and this one
                        (into / leftover).unlink(missing_ok=True)
                    refused[one["Key"]] = str(error)
                if time.monotonic() - written > 1:
                    write_json(record, have)
                    written = time.monotonic()
                progress(len(objects) - left, len(objects), one["Name"])
        finally:
            pool.shutdown(cancel_futures=True)
            write_json(record, have)
    for leftover in into.rglob(f".*{RANGES}*"):  # of a version that is no longer there
        leftover.unlink()
    return refused


def _is_here(one: dict, path: Path, have: dict[str, str]) -> bool:
    return have.get(one["Name"]) == one["ETag"] and path.is_file() and path.stat().st_size == one["Size"]


def _download(client, bucket: str, one: dict, path: Path) -> str:
    """Fetch an object; returns the ETag of what came, which is another where the object was replaced meanwhile."""
    for attempt in range(1, ATTEMPTS + 1):
        transfer = _transfer if one["Size"] <= RANGE else _transfer_in_ranges
        try:
            with publish(path) as part:
                found = patiently(partial(transfer, client, bucket, one, part))
                _verify(client, bucket, one, part.stat().st_size, found)
            break
        except _Unlike:
            if attempt == ATTEMPTS:
                raise
            head = client.head_object(Bucket=bucket, Key=one["Key"])
            one = one | {"Size": head["ContentLength"], "ETag": head["ETag"]}
    return one["ETag"]


def _chunks(client, bucket: str, one: dict, **asked: str) -> Iterator[bytes]:
    """An object's bytes; raises _Unlike where it is no longer the one that was listed."""
    try:
        body = client.get_object(Bucket=bucket, Key=one["Key"], IfMatch=one["ETag"], **asked)["Body"]
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
            raise _Unlike(f"{one['Key']} is being replaced just now: run again later") from error
        raise
    return body.iter_chunks(CHUNK)


def _transfer(client, bucket: str, one: dict, part: Path) -> str:
    """Fetch an object in one go; returns its MD5."""
    found = md5()
    with part.open("wb") as out:
        for chunk in _chunks(client, bucket, one):
            found.update(chunk)
            out.write(chunk)
    return found.hexdigest()


def _transfer_in_ranges(client, bucket: str, one: dict, part: Path) -> str:
    """Fetch a large object range by range, those that an earlier transfer of this version brought excepted."""
    version = hashlib.blake2b(f"{one['Key']} {one['ETag']}".encode(), digest_size=12).hexdigest()
    file, record = (part.parent / f".{version}{RANGES}{suffix}" for suffix in ("", ".json"))
    came = set(read_json(record)) if file.exists() and record.exists() else set()
    with file.open("ab") as whole:
        whole.truncate(one["Size"])
    one_at_a_time = threading.Lock()

    def fetch_range(start: int) -> None:
        if start in came:
            return
        with file.open("r+b") as out:
            out.seek(start)
            for chunk in _chunks(client, bucket, one, Range=f"bytes={start}-{min(start + RANGE, one['Size']) - 1}"):
                out.write(chunk)
        with one_at_a_time:
            came.add(start)
            write_json(record, sorted(came))

    found = md5()
    with ThreadPoolExecutor(CONNECTIONS) as pool, file.open("rb", buffering=0) as arrived:
        for _ in pool.map(fetch_range, range(0, one["Size"], RANGE)):
            found.update(arrived.read(RANGE))
    file.replace(part)
    record.unlink()
    return found.hexdigest()


def _verify(client, bucket: str, one: dict, size: int, found: str) -> None:
    """Raise _Unlike where size or MD5 of what came are not those that were listed.

    An ETag is the MD5 of the bytes unless the object was uploaded in parts, or is encrypted under a key of its owner's;
    then boto3's own checksums of the transfer have to do.
    """
    if size != one["Size"]:
        raise _Unlike(
            f"{one['Key']} came as {size:,} bytes, listed were {one['Size']:,}: "
            "if it is being written just now, run again later"
        )
    expected = one["ETag"].strip('"')
    if "-" in expected or found == expected:
        return
    if "SSEKMSKeyId" not in client.head_object(Bucket=bucket, Key=one["Key"]):
        raise _Unlike(f"{one['Key']} came with other bytes than the server's checksum is of: upload it anew")


def patiently(call: Callable[[], Result]) -> Result:
    """What a call returns; it is made again while the server is down, for as long as PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except OUTAGES as error:
            if time.monotonic() > deadline or not is_outage(error):
                raise
            log.warning("the object storage does not answer (%s); trying again", type(error).__name__)
        time.sleep(PAUSE)


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the server cannot be reached, or is in trouble, rather than that it refuses."""
    if isinstance(error, S3UploadFailedError) and error.__context__:
        return is_outage(error.__context__)
    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
    return isinstance(error, UNREACHABLE)


@contextlib.contextmanager
def explained(address: str, doing: str = "read") -> Iterator[None]:
    """Turn what boto3 raises into an error that says what to do."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DataError(f"cannot {doing} {address}: there are no credentials: {_KEYS}") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise DataError(f"cannot {doing} {address}: {REMEDIES.get(code, f'refused with {code}')}") from None
    except PermissionError as error:
        if error.filename:  # a local file
            raise
        raise DataError(f"cannot {doing} {address}: {REMEDIES['AccessDenied']}") from None
    except (BotoCoreError, Boto3Error) as error:
        raise DataError(f"cannot {doing} {address}: {error}; check AWS_ENDPOINT_URL and the network") from error
