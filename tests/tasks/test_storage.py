"""Fetching from a real S3 server on loopback."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from ost.errors import DataError
from tasks.storage import fetch, is_remote

KEY, SECRET = "test-key", "test-secret-never-shown"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a SeaweedFS S3 server with one identity."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    port = free_port()
    ports = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer")]
    ports += [f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")]
    command = ["weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={port}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    settings = [f"-s3.config={folder}/s3.json", "-master.telemetry=false", "-volume.max=5"]
    process = subprocess.Popen([_weed(), *command[1:], *ports, *settings], **quiet)
    try:
        yield _ready(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _weed() -> str:
    return shutil.which("weed") or str(Path(sys.executable).with_name("weed"))


def _ready(address: str) -> str:
    client = boto3.client("s3", endpoint_url=address, aws_access_key_id=KEY, aws_secret_access_key=SECRET)
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket="pools")
            client.put_object(Bucket="pools", Key="probe", Body=b"x")
            return address
        except (BotoCoreError, ClientError):
            assert time.monotonic() < deadline, "the S3 server did not come up"
            time.sleep(0.3)


@pytest.fixture
def client(server, monkeypatch):
    """A client of the server, whose settings stand in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    for item in client.list_objects_v2(Bucket="pools").get("Contents", []):
        client.delete_object(Bucket="pools", Key=item["Key"])
    return client


def put(client, **objects: bytes) -> None:
    for key, body in objects.items():
        client.put_object(Bucket="pools", Key=key.replace("__", "/"), Body=body)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "objects.json"
    }


def test_only_s3_addresses_are_remote():
    assert is_remote("s3://pools/a") and not is_remote("data/s3://pools") and not is_remote("pool.parquet")


def test_a_prefix_is_fetched_whole_and_its_neighbours_are_not(client, tmp_path):
    put(client, a__1=b"one", a__b__2=b"two", ab__3=b"no", other=b"no")
    assert fetch("s3://pools/a", tmp_path) == tmp_path
    assert files(tmp_path) == {"1": b"one", "b/2": b"two"}


def test_a_listing_of_many_pages_is_read_to_its_end(client, tmp_path):
    put(client, **{f"many__{number}": b"%d" % number for number in range(1005)})
    fetch("s3://pools/many/", tmp_path)
    assert len(files(tmp_path)) == 1005, "the listing stopped at its first page"


def test_one_object_is_fetched_as_a_file(client, tmp_path):
    put(client, sets__pool=b"bytes")
    assert fetch("s3://pools/sets/pool", tmp_path).read_bytes() == b"bytes"


def test_only_what_changed_is_fetched_again_and_what_is_gone_goes(client, tmp_path):
    put(client, a__same=b"1", a__changed=b"1", a__gone=b"1")
    fetch("s3://pools/a/", tmp_path)
    stamp = (tmp_path / "same").stat().st_mtime_ns
    put(client, a__changed=b"2", a__new=b"2")
    client.delete_object(Bucket="pools", Key="a/gone")
    fetch("s3://pools/a/", tmp_path)
    assert files(tmp_path) == {"same": b"1", "changed": b"2", "new": b"2"}
    assert (tmp_path / "same").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("address", ["s3://pools/empty/", "s3://nowhere/a"])
def test_nothing_found_is_an_error(client, tmp_path, address):
    with pytest.raises(DataError, match="check"):
        fetch(address, tmp_path)


def test_wrong_credentials_are_refused_and_never_shown(client, tmp_path, monkeypatch):
    put(client, a__1=b"one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(DataError) as caught:
        fetch("s3://pools/a/", tmp_path)
    assert "another-secret" not in str(caught.value) and KEY not in str(caught.value)
    assert not files(tmp_path)


def test_a_key_that_would_leave_the_folder_is_refused(client, tmp_path, monkeypatch):
    listing = [("a/../../evil", 1, "etag")]  # the server itself takes no such key
    monkeypatch.setattr("tasks.storage._list", lambda *_: iter(listing))
    with pytest.raises(DataError, match="below the data folder"):
        fetch("s3://pools/a/", tmp_path)
