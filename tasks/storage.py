"""Sample sets in S3-compatible object storage, under `s3://bucket/key`. Alone in importing boto3.

Endpoint and credentials come from the environment, where boto3 and DVC alike look for them: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from ost.errors import DataError
from ost.store import digest, publish, read_json, remove, write_json
from ost.types import Progress, silent

SCHEME = "s3://"

CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard", "max_attempts": 8},  # the waits between them add up to about a minute
    max_pool_connections=32,
)

CONNECTIONS = 8
"""Objects, or ranges of a large one, that are fetched at a time."""
RANGE = 64 << 20
"""Bytes above which an object is fetched in ranges, each of which outlives a transfer that breaks off."""
CHUNK = 1 << 20

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


def fetch(address: str, into: Path, progress: Progress = silent) -> Path:
    """Mirror a file, or all that lies under a prefix, into the folder `into`; returns the file, or the folder.

    What is there already in the same version is not fetched again, and what is no longer at the address is deleted.
    Several objects come at a time, checked against the server's checksums; a large one goes on where it broke off.
    Raises DataError where nothing is there, access is refused, or a key would leave the folder.
    """
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    with _explained(address):
        client = _client()
        objects = _objects(client, bucket, key)
        if not objects:
            raise DataError(f"nothing is at {address}: give the key of a file, or a prefix with files under it")
        _mirror(client, bucket, objects, into, progress)
    single = len(objects) == 1 and objects[0]["Key"] == key
    return into / objects[0]["Name"] if single else into


def publish_files(files: Mapping[str, Path], address: str, name: str, progress: Progress = silent) -> None:
    """Upload files under `address/name/`, then let `address/latest.json` name them, with digests and sizes.

    Who reads latest.json first sees all of them or those of before. Raises DataError where access is refused.
    """
    bucket, _, prefix = address.rstrip("/").removeprefix(SCHEME).partition("/")
    place = f"{prefix}/" if prefix else ""
    with _explained(address, "write to"):
        client = _client()
        for done, (path, file) in enumerate(files.items(), start=1):
            client.upload_file(str(file), bucket, f"{place}{name}/{path}")
            progress(done, len(files), path)
        known = {
            path: {"key": f"{place}{name}/{path}", "md5": digest(file), "bytes": file.stat().st_size}
            for path, file in files.items()
        }
        body = json.dumps({"name": name, "files": known}, indent=2).encode()
        client.put_object(Bucket=bucket, Key=f"{place}latest.json", Body=body, ContentType="application/json")


def _client():
    """A client of a session of its own: the default session would keep the credentials that it saw first."""
    return boto3.session.Session().client("s3", config=CONFIG)


def _objects(client, bucket: str, key: str) -> list[dict]:
    """The object with this key, else those under it as a folder; `Name` is where each belongs in that folder."""
    # Of all keys that start with a key, itself comes first.
    first = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
    if key and not key.endswith("/") and [one["Key"] for one in first] == [key]:
        return [first[0] | {"Name": _safe(key.rpartition("/")[2], key)}]
    prefix = key.rstrip("/") + "/" if key else ""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    listed = [one for page in pages for one in page.get("Contents", []) if not one["Key"].endswith("/")]
    return [one | {"Name": _safe(one["Key"].removeprefix(prefix), one["Key"])} for one in listed]


def _safe(name: str, key: str) -> str:
    """A name that stays in the folder it is put into."""
    if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
        raise DataError(f"the key {key!r} would lead out of its folder: rename the object, or give a narrower prefix")
    return name


def _mirror(client, bucket: str, objects: list[dict], into: Path, progress: Progress) -> None:
    """Bring a folder to what is listed, several objects at a time."""
    record = into.with_name(into.name + ".etags.json")
    have = read_json(record) if record.is_file() else {}
    wanted = {one["Name"]: one["ETag"] for one in objects}
    for gone in have.keys() - wanted.keys():
        (into / gone).unlink(missing_ok=True)
    have = {name: etag for name, etag in have.items() if name in wanted}
    due = [one for one in objects if not _is_here(one, into / one["Name"], have)]
    write_json(record, have)
    progress(len(objects) - len(due), len(objects), into.name)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        fetched = {pool.submit(_download, client, bucket, one, into / one["Name"]): one for one in due}
        try:
            for left, future in zip(reversed(range(len(due))), as_completed(fetched), strict=True):
                future.result()
                one = fetched[future]
                write_json(record, have := have | {one["Name"]: one["ETag"]})
                progress(len(objects) - left, len(objects), one["Name"])
        finally:
            pool.shutdown(cancel_futures=True)


def _is_here(one: dict, path: Path, have: dict[str, str]) -> bool:
    return have.get(one["Name"]) == one["ETag"] and path.is_file() and path.stat().st_size == one["Size"]


def _download(client, bucket: str, one: dict, path: Path) -> None:
    with publish(path) as part:
        if one["Size"] <= RANGE:
            client.download_file(bucket, one["Key"], str(part))
        else:
            _download_in_ranges(client, bucket, one, part)
        _verify(client, bucket, one, part)


def _download_in_ranges(client, bucket: str, one: dict, part: Path) -> None:
    """Fetch a large object range by range; those that a transfer which broke off left of this version are kept."""
    version = hashlib.blake2b(f"{one['Key']} {one['ETag']}".encode(), digest_size=12).hexdigest()
    folder = part.parent / f".{version}"
    starts = range(0, one["Size"], RANGE)

    def fetch_range(start: int) -> Path:
        file, end = folder / f"{start}", min(start + RANGE, one["Size"])
        if not file.exists():
            asked = {"Range": f"bytes={start}-{end - 1}", "IfMatch": one["ETag"]}
            body = client.get_object(Bucket=bucket, Key=one["Key"], **asked)["Body"]
            with publish(file) as piece, piece.open("wb") as out:
                shutil.copyfileobj(body, out, CHUNK)
        return file

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        pieces = list(pool.map(fetch_range, starts))
    with part.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as stream:
                shutil.copyfileobj(stream, out, CHUNK)
    remove(folder)


def _verify(client, bucket: str, one: dict, part: Path) -> None:
    """Raise DataError where what came is not what was listed.

    An ETag is the MD5 of the bytes unless the object was uploaded in parts, or is encrypted under a key of its owner's;
    then boto3's own checksums of the transfer have to do.
    """
    size = part.stat().st_size
    if size != one["Size"]:
        raise DataError(
            f"{one['Key']} came as {size:,} bytes, listed were {one['Size']:,}: "
            "if it is being written just now, run again later"
        )
    expected = one["ETag"].strip('"')
    if "-" in expected or digest(part) == expected:
        return
    if "SSEKMSKeyId" not in client.head_object(Bucket=bucket, Key=one["Key"]):
        raise DataError(f"{one['Key']} came with other bytes than the server's checksum is of: run again")


@contextlib.contextmanager
def _explained(address: str, doing: str = "read") -> Iterator[None]:
    """Turn what boto3 raises into an error that says what to do."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DataError(f"cannot {doing} {address}: there are no credentials: {_KEYS}") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise DataError(f"cannot {doing} {address}: {REMEDIES.get(code, f'refused with {code}')}") from None
    except (BotoCoreError, Boto3Error, OSError) as error:
        raise DataError(f"cannot {doing} {address}: {error}; check AWS_ENDPOINT_URL and the network") from error
