"""S3, or any compatible store: sample sets under `s3://` addresses, fetched before they are read.

Alone in importing boto3. Credentials and endpoint come from the environment, as boto3 reads them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, …).
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from ost.errors import DataError
from ost.store import publish, read_json, write_json
from ost.types import Progress, silent

SCHEME = "s3://"
RECORD = "objects.json"
"""Beside the fetched objects: the ETag of each, so that an unchanged one is not fetched again."""


def is_remote(address: str) -> bool:
    """Whether an address names objects on S3 instead of local files."""
    return address.startswith(SCHEME)


def fetch(address: str, into: Path, progress: Progress = silent) -> Path:
    """Download an object, or all objects under a prefix, into a folder; returns the file or the folder.

    What is there with the same ETag is kept, what is gone from the store is removed. Raises DataError, which never
    holds a credential, where the store refuses, nothing is found, or a key would leave the folder.
    """
    bucket, _, prefix = address.removeprefix(SCHEME).partition("/")
    try:
        client = boto3.session.Session().client("s3")  # the default session would keep old credentials
        found = {_name(key, prefix): (key, size, etag) for key, size, etag in _list(client, bucket, prefix)}
        if not found:
            raise DataError(f"nothing lies under {address}: check the address, and that it may be listed")
        _download(client, bucket, found, into, progress)
    except (BotoCoreError, ClientError) as error:
        raise DataError(
            f"cannot read {address} ({_reason(error)}): check the address, AWS_ENDPOINT_URL and the credentials"
        ) from None
    return into / PurePosixPath(prefix).name if list(found) == [PurePosixPath(prefix).name] else into


def _list(client, bucket: str, prefix: str) -> Iterator[tuple[str, int, str]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            inside = item["Key"] == prefix or not prefix or prefix.endswith("/") or item["Key"][len(prefix)] == "/"
            if inside and not item["Key"].endswith("/"):
                yield item["Key"], item["Size"], item["ETag"]


def _name(key: str, prefix: str) -> str:
    """The object's path below the folder; raises DataError for one that would lie elsewhere."""
    name = PurePosixPath(key).name if key == prefix else key.removeprefix(prefix).lstrip("/")
    if ".." in PurePosixPath(name).parts or "\\" in name or name == RECORD:
        raise DataError(f"the object {key!r} cannot be stored below the data folder; rename it in the store")
    return name


def _download(client, bucket: str, found: dict[str, tuple[str, int, str]], into: Path, progress: Progress) -> None:
    record = into / RECORD
    known = read_json(record) if record.exists() else {}
    for gone in set(known) - set(found):
        (into / gone).unlink(missing_ok=True)
    held = {name: etag for name, etag in known.items() if name in found and (into / name).exists()}
    for done, (name, (key, size, etag)) in enumerate(found.items(), start=1):
        if held.get(name) != etag:
            with publish(into / name) as part:
                client.download_file(bucket, key, str(part))
                if part.stat().st_size != size:
                    raise DataError(f"{key} came with {part.stat().st_size} bytes instead of {size}; run again")
            held[name] = etag
            write_json(record, held)
        progress(done, len(found), "fetching")


def _reason(error: Exception) -> str:
    """The store's error code, or the error's kind: never its text, which may quote a request."""
    return error.response["Error"].get("Code", "?") if isinstance(error, ClientError) else type(error).__name__
