"""Object storage, against a real S3 server."""

import dataclasses
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from faulty_network import Wire, wire_to

from ost.errors import DataError
from stack.servers import S3, s3_server
from tasks import storage
from tasks.storage import errors, mirror, transfer
from tasks.storage.transfer import StoredObject

SHARDS = {"pool/part-0.parquet": b"first", "pool/deep/part-1.parquet": b"second", "poolside.txt": b"another set"}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> S3:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def client(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3")


@pytest.fixture
def bucket(client) -> str:
    """A bucket with two shards under `pool/`, and a file whose key only starts like theirs."""
    if not any(one["Name"] == "tests" for one in client.list_buckets()["Buckets"]):
        client.create_bucket(Bucket="tests")
    for one in client.list_objects_v2(Bucket="tests").get("Contents", []):
        client.delete_object(Bucket="tests", Key=one["Key"])
    for key, body in SHARDS.items():
        client.put_object(Bucket="tests", Key=key, Body=body)
    return "tests"


@pytest.fixture
def wire(server, bucket, monkeypatch) -> Iterator[Wire]:
    """The way to the server, which can be disturbed; two tries lie close together."""
    monkeypatch.setattr(errors, "PAUSE", 0.1)
    with wire_to(urlsplit(server.endpoint).port) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.port}")
        yield found


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(errors, "PATIENCE", 0.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_prefix_is_mirrored_with_its_folders_and_nothing_beside_it(bucket, tmp_path):
    seen = []
    folder = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool", lambda *report: seen.append(report)).path
    expected = {"part-0.parquet": b"first", "deep/part-1.parquet": b"second"}
    assert contents(folder) == expected, "`poolside.txt` starts with the prefix's letters, but lies outside its folder"
    assert [done for done, _, _ in seen] == [0, 1, 2], "progress was not told for each object"
    assert {total for _, total, _ in seen} == {2}


def test_a_trailing_slash_and_a_whole_bucket_are_addresses_too(bucket, tmp_path):
    assert len(contents(storage.fetch(f"s3://{bucket}/pool/", tmp_path / "slash").path)) == 2
    assert contents(storage.fetch(f"s3://{bucket}", tmp_path / "all").path) == SHARDS


def test_the_key_of_one_file_gives_that_file(bucket, tmp_path):
    path = storage.fetch(f"s3://{bucket}/pool/deep/part-1.parquet", tmp_path / "pool").path
    assert path == tmp_path / "pool/part-1.parquet"
    assert path.read_bytes() == b"second"


def test_more_objects_than_one_listing_page_all_come(client, bucket, tmp_path, monkeypatch):
    """A page holds 1,000 keys; here it is made to hold one, so that the second page is needed."""
    real = mirror._client

    def one_a_page():
        made = real()
        made.meta.events.register(
            "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=1)
        )
        return made

    monkeypatch.setattr(mirror, "_client", one_a_page)
    assert len(contents(storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool").path)) == 2, (
        "only the first page was read"
    )


def test_what_is_there_in_the_same_version_is_not_fetched_again(client, bucket, tmp_path, monkeypatch):
    fetched = []
    real = StoredObject.download
    monkeypatch.setattr(StoredObject, "download", lambda one, path: [fetched.append(one.name), real(one, path)][1])
    address, into = f"s3://{bucket}/pool", tmp_path / "pool"
    storage.fetch(address, into)
    assert sorted(fetched) == ["deep/part-1.parquet", "part-0.parquet"]
    fetched.clear()
    storage.fetch(address, into)
    assert fetched == [], "unchanged objects were fetched a second time"
    client.put_object(Bucket=bucket, Key="pool/part-0.parquet", Body=b"FIRST")  # as long as before
    assert contents(storage.fetch(address, into).path)["part-0.parquet"] == b"FIRST", "size alone was compared"
    assert fetched == ["part-0.parquet"]
    (into / "part-0.parquet").write_bytes(b"cut")
    assert contents(storage.fetch(address, into).path)["part-0.parquet"] == b"FIRST", "a damaged local file was trusted"


def test_a_shard_that_left_the_prefix_leaves_the_folder(client, bucket, tmp_path):
    storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    client.delete_object(Bucket=bucket, Key="pool/part-0.parquet")
    folder = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool").path
    assert list(contents(folder)) == ["deep/part-1.parquet"], "a deleted shard would still be read as part of the pool"


def test_what_was_fetched_before_a_kill_leaves_with_its_object(client, bucket, tmp_path):
    """The record of what was fetched is written once a second; a kill leaves files that it does not name."""
    storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    (tmp_path / "pool/left.parquet").write_bytes(b"its object has been deleted since")
    (tmp_path / "pool/deep/left.parquet").write_bytes(b"its object has been deleted since")
    folder = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool").path
    assert contents(folder).keys() == {"part-0.parquet", "deep/part-1.parquet"}, "the pool holds a sample of no source"


def test_a_file_that_became_a_folder_comes_as_one_and_goes_back(client, bucket, tmp_path):
    for keys in (["swap/a"], ["swap/a/b"], ["swap/a"]):
        for one in client.list_objects_v2(Bucket=bucket, Prefix="swap/").get("Contents", []):
            client.delete_object(Bucket=bucket, Key=one["Key"])
        for key in keys:
            client.put_object(Bucket=bucket, Key=key, Body=b"x")
        assert contents(storage.fetch(f"s3://{bucket}/swap", tmp_path / "swap").path) == {keys[0][5:]: b"x"}


def stored(client, bucket: str, name: str) -> StoredObject:
    """An object of a name that the server here would not hold, with the bytes of another."""
    return StoredObject(
        client,
        bucket,
        "pool/part-0.parquet",
        name,
        5,
        client.head_object(Bucket=bucket, Key="pool/part-0.parquet")["ETag"],
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep/part-1.parquet/x", "lies under 'deep/part-1.parquet'"),
        ("deep/" + "n" * 256, "more than 255 bytes"),
        ("é" * 128, "more than 255 bytes"),
    ],
)
def test_a_key_that_names_no_file_takes_no_other_with_it(name, message, bucket, client, tmp_path, monkeypatch):
    real = mirror._objects
    bad = dataclasses.replace(stored(client, bucket, name), key=f"pool/{name}")
    monkeypatch.setattr(mirror, "_objects", lambda *where: [*real(*where), bad])
    folder, (refused,) = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert message in refused and f"{bad.key!r}" in refused and "rename the object" in refused
    assert len(contents(folder)) == 2


def test_a_name_that_this_file_system_refuses_takes_no_other_with_it(bucket, client, tmp_path, monkeypatch):
    real = StoredObject.download

    def download(one, path):
        if one.name == "part-0.parquet":
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(one, path)

    monkeypatch.setattr(StoredObject, "download", download)
    folder, (refused,) = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert "'pool/part-0.parquet' (Invalid argument)" in refused and len(contents(folder)) == 1


def test_a_name_as_long_as_may_be_comes(bucket, client, tmp_path):
    client.put_object(Bucket=bucket, Key="long/" + "n" * 255, Body=b"x")
    assert contents(storage.fetch(f"s3://{bucket}/long", tmp_path / "long").path) == {"n" * 255: b"x"}


def spoil(key: str, times: int, monkeypatch, came: bytes = b"fjrst") -> list[str]:
    """Let an object come as other bytes, so many times; returns the keys that are asked for."""
    asked, real = [], StoredObject.chunks

    def chunks(one, **more):
        asked.append(one.key)
        content = b"".join(real(one, **more))
        wrong = one.key == key and asked.count(key) <= times
        yield came if wrong else content

    monkeypatch.setattr(StoredObject, "chunks", chunks)
    return asked


@pytest.mark.parametrize(
    ("came", "message"), [(b"f", "came as 1 bytes, listed were 5"), (b"fjrst", "came with other bytes")]
)
def test_an_object_that_keeps_coming_short_or_wrong_is_refused_and_the_rest_goes_on(
    came, message, bucket, tmp_path, monkeypatch
):
    asked = spoil("pool/part-0.parquet", transfer.ATTEMPTS, monkeypatch, came)
    folder, (refused,) = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert message in refused
    assert contents(folder) == {"deep/part-1.parquet": b"second"}, "what is no shard stands in the folder"
    assert asked.count("pool/part-0.parquet") == transfer.ATTEMPTS
    storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert len(contents(folder)) == 2, "it was not asked for again once it was whole"


def test_a_single_object_that_keeps_coming_wrong_is_an_error(bucket, tmp_path, monkeypatch):
    spoil("pool/part-0.parquet", transfer.ATTEMPTS, monkeypatch)
    with pytest.raises(DataError, match="came with other bytes"):
        storage.fetch(f"s3://{bucket}/pool/part-0.parquet", tmp_path / "pool")
    assert not (tmp_path / "pool/part-0.parquet").exists(), "what is no shard stands under the name of one"


def test_an_object_that_comes_wrong_once_is_fetched_again(bucket, tmp_path, monkeypatch):
    spoil("pool/part-0.parquet", 1, monkeypatch)
    folder, refused = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert not refused and contents(folder)["part-0.parquet"] == b"first"


def test_an_object_that_is_replaced_between_listing_and_transfer_comes_as_it_is_now(
    client, bucket, tmp_path, monkeypatch
):
    real = mirror._objects

    def listed_before(client, *where):
        found = real(client, *where)
        client.put_object(Bucket=bucket, Key="pool/part-0.parquet", Body=b"another")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "_objects", listed_before)
        folder, refused = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert not refused and contents(folder)["part-0.parquet"] == b"another"
    monkeypatch.setattr(StoredObject, "download", lambda *args: pytest.fail("what is there was fetched again"))
    storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")


def take_down_until_it_is_missed(wire: Wire) -> None:
    """Down, until a few connections have been refused."""

    def raise_again() -> None:
        while wire.refused <= 2:
            time.sleep(0.05)
        wire.down = False

    wire.down = True
    threading.Thread(target=raise_again, daemon=True).start()


def test_a_server_that_is_down_for_a_while_is_waited_for(wire, bucket, tmp_path):
    take_down_until_it_is_missed(wire)
    assert len(contents(storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool").path)) == 2
    assert wire.refused > 2, "the server was never down"


def test_a_server_that_stays_down_is_an_error_that_says_where_to_look(wire, bucket, impatient, tmp_path):
    wire.down = True
    with pytest.raises(DataError, match="check AWS_ENDPOINT_URL and the network"):
        storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")


def test_transfers_that_break_off_are_made_again(wire, client, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "RANGE", 1 << 16)
    body = os.urandom(1 << 20)
    client.put_object(Bucket=bucket, Key="large/shard.parquet", Body=body)
    client.put_object(Bucket=bucket, Key="large/small.parquet", Body=body[: 1 << 15])
    wire.breaks[:] = [20_000] * 12
    folder, refused = storage.fetch(f"s3://{bucket}/large", tmp_path / "large")
    assert wire.broken > 5, "no transfer broke off"
    assert not refused
    assert contents(folder) == {"shard.parquet": body, "small.parquet": body[: 1 << 15]}


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(errors, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(clock: Clock, seconds: list[float]) -> Callable[[], str]:
    """A call that fails after so many seconds, one time each, and then succeeds."""

    def call() -> str:
        if not seconds:
            return "came"
        clock.now += seconds.pop(0)
        raise EndpointConnectionError(endpoint_url="http://gone")

    return call


def test_patience_counts_from_the_first_failure(monkeypatch):
    clock = Clock(monkeypatch)
    assert errors.patiently(failing(clock, [3600.0, 1.0])) == "came", "a long transfer has no patience left"
    with pytest.raises(EndpointConnectionError):
        errors.patiently(failing(clock, [1.0] * 1000))
    assert clock.now < 3600 + 2 * errors.PATIENCE, "it was waited for without end"


def test_patience_counts_anew_where_more_has_come(monkeypatch):
    clock, come = Clock(monkeypatch), [0]
    long = failing(clock, [errors.PATIENCE] * 5)

    def call() -> str:
        come[0] += 1
        return long()

    assert errors.patiently(call, lambda: come[0]) == "came"
    with pytest.raises(EndpointConnectionError):
        errors.patiently(failing(clock, [errors.PATIENCE] * 5), lambda: 7)


def test_a_transfer_that_breaks_off_goes_on_where_it_did(wire, client, bucket, tmp_path, monkeypatch):
    body = os.urandom(1 << 20)
    client.put_object(Bucket=bucket, Key="large/shard.parquet", Body=body)
    monkeypatch.setattr(transfer, "CHUNK", 1 << 14)
    asked, real = [], StoredObject.chunks
    monkeypatch.setattr(StoredObject, "chunks", lambda one, **more: [asked.append(more), real(one, **more)][1])
    wire.breaks[:] = [300_000, 300_000]
    assert contents(storage.fetch(f"s3://{bucket}/large", tmp_path / "large").path) == {"shard.parquet": body}
    starts = [int(one["Range"].removeprefix("bytes=").partition("-")[0]) for one in asked[1:]]
    assert len(starts) >= 2 and starts[0] > 200_000 and starts == sorted(set(starts)), "it began again"


def test_a_slow_server_is_no_fault(wire, bucket, client, tmp_path):
    client.put_object(Bucket=bucket, Key="slow/shard.parquet", Body=bytes(1 << 18))
    wire.seconds_a_chunk = 0.05
    folder, refused = storage.fetch(f"s3://{bucket}/slow", tmp_path / "slow")
    assert not refused and contents(folder) == {"shard.parquet": bytes(1 << 18)}


def test_an_upload_waits_for_the_server_too(wire, client, bucket, tmp_path):
    (tmp_path / "ost.parquet").write_bytes(b"selection")
    take_down_until_it_is_missed(wire)
    storage.publish_files({"ost.parquet": tmp_path / "ost.parquet"}, f"s3://{bucket}/selections", "2026-11-01")
    assert wire.refused > 2, "the server was never down"
    assert published(client, bucket) == {"ost.parquet": b"selection"}


def test_a_large_object_comes_in_ranges_and_goes_on_where_it_broke_off(
    client, bucket, impatient, tmp_path, monkeypatch
):
    body = os.urandom(10_500)
    client.put_object(Bucket=bucket, Key="large/shard.parquet", Body=body)
    monkeypatch.setattr(transfer, "RANGE", 1000)
    monkeypatch.setattr(transfer, "CONNECTIONS", 1)
    asked, fail, real = [], {"at": 7}, StoredObject.chunks

    def chunks(one, Range):
        asked.append(Range)
        if len(asked) == fail["at"]:
            raise EndpointConnectionError(endpoint_url="http://gone")
        return real(one, Range=Range)

    monkeypatch.setattr(StoredObject, "chunks", chunks)
    with pytest.raises(DataError, match="check AWS_ENDPOINT_URL and the network"):
        storage.fetch(f"s3://{bucket}/large", tmp_path / "large")
    assert not (tmp_path / "large/shard.parquet").exists()
    broken, came = asked[6], {*asked[:6], *asked[7:]}
    asked.clear()
    fail["at"] = 0
    folder = storage.fetch(f"s3://{bucket}/large", tmp_path / "large").path
    assert contents(folder) == {"shard.parquet": body}, "ranges were left over, or put together wrongly"
    assert broken in asked and not came & set(asked), "a range that had come was fetched again"


def test_ranges_of_another_version_are_not_put_together(client, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "RANGE", 1000)
    old, new = os.urandom(5000), os.urandom(5000)  # another version, as long as the listed one
    client.put_object(Bucket=bucket, Key="large/shard.parquet", Body=old)
    real = mirror._objects

    def listed_before(client, *where):
        found = real(client, *where)
        client.put_object(Bucket=bucket, Key="large/shard.parquet", Body=new)
        return found

    monkeypatch.setattr(mirror, "_objects", listed_before)
    folder, refused = storage.fetch(f"s3://{bucket}/large", tmp_path / "large")
    assert not refused and contents(folder) == {"shard.parquet": new}, "nothing else may be left of the old version"


@pytest.mark.parametrize("key", ["pool/../../escaped", "pool//etc/passwd", "pool/./x", "pool/a/../../../b"])
def test_a_key_that_would_leave_the_folder_is_refused(key, tmp_path, monkeypatch):
    """The server here refuses to hold such keys; others do not, so its listing is made up."""
    client = boto3.client("s3", aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1")
    listing = {"Contents": [{"Key": key, "Size": 1, "ETag": '"e"'}], "IsTruncated": False}
    monkeypatch.setattr(mirror, "_client", lambda: client)
    with Stubber(client) as stub:
        for _ in range(2):
            stub.add_response("list_objects_v2", listing)
        with pytest.raises(DataError, match="out of its folder"):
            storage.fetch("s3://bucket/pool", tmp_path / "pool")
    assert list(tmp_path.iterdir()) == [], "something was written before the keys were looked at"


def test_a_key_that_would_leave_the_folder_takes_no_other_with_it(bucket, client, tmp_path, monkeypatch):
    real = mirror._objects
    bad = StoredObject(client, bucket, "pool/../../escaped", "../../escaped", 1, '"e"')
    monkeypatch.setattr(mirror, "_objects", lambda *where: [*real(*where), bad])
    folder, (refused,) = storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert "'pool/../../escaped' would lead out" in refused
    assert len(contents(folder)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"pool", "pool.etags.json"}, "something lies outside"


def test_a_missing_bucket_and_an_empty_prefix_are_told_apart(bucket, tmp_path):
    with pytest.raises(DataError, match="no such bucket"):
        storage.fetch("s3://nobodys-bucket/pool", tmp_path / "pool")
    with pytest.raises(DataError, match=r"nothing is at .*give the key of a file, or a prefix"):
        storage.fetch(f"s3://{bucket}/poo", tmp_path / "pool")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret", "secret key is not this access key's"),
        ("AWS_ACCESS_KEY_ID", "WRONGKEY", "nobody there knows this access key"),
    ],
)
def test_wrong_credentials_are_explained_but_never_quoted(bucket, server, tmp_path, monkeypatch, name, value, remedy):
    monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=remedy) as caught:
        storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert "set AWS_ACCESS_KEY_ID" in str(caught.value), "the message has no remedy"
    for word in (value, server.key, server.secret):
        assert word not in str(caught.value), "a credential stands in the message"
    assert caught.value.__suppress_context__, "the server's own words, which may quote a key, would reach the log"


def test_an_address_with_a_password_is_never_quoted(impatient, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hidden@127.0.0.1:9")
    with pytest.raises(DataError, match="check AWS_ENDPOINT_URL") as caught:
        storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")
    assert "hidden" not in str(caught.value) and not caught.value.__cause__


def test_no_credentials_at_all_are_explained(bucket, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DataError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        storage.fetch(f"s3://{bucket}/pool", tmp_path / "pool")


def published(client, bucket: str) -> dict[str, bytes]:
    """What a reader sees who starts at latest.json."""
    found = json.loads(client.get_object(Bucket=bucket, Key="selections/latest.json")["Body"].read())
    files = {
        path: client.get_object(Bucket=bucket, Key=one["key"])["Body"].read() for path, one in found["files"].items()
    }
    for path, one in found["files"].items():
        assert (hashlib.md5(files[path]).hexdigest(), len(files[path])) == (one["md5"], one["bytes"])
    return files


def test_what_is_published_is_seen_whole_or_not_at_all(client, bucket, impatient, tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("ost.parquet", "toxic.parquet")}
    for path in files.values():
        path.write_bytes(b"old " + path.name.encode())
    storage.publish_files(files, f"s3://{bucket}/selections/", "2026-11-01")
    old = published(client, bucket)
    assert old == {name: path.read_bytes() for name, path in files.items()}
    for path in files.values():
        path.write_bytes(b"new " + path.name.encode())
    real = mirror._client

    def breaking():
        made = real()
        upload = made.upload_file

        def upload_file(file, bucket, key):
            if key.endswith("toxic.parquet"):
                raise EndpointConnectionError(endpoint_url="http://gone")
            upload(file, bucket, key)

        made.upload_file = upload_file
        return made

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "_client", breaking)
        with pytest.raises(DataError, match=r"cannot write to s3://tests/selections: .*check AWS_ENDPOINT_URL"):
            storage.publish_files(files, f"s3://{bucket}/selections", "2026-11-08")
    assert published(client, bucket) == old, "half a selection is visible"
    storage.publish_files(files, f"s3://{bucket}/selections", "2026-11-08")
    assert published(client, bucket) == {name: path.read_bytes() for name, path in files.items()}


def test_only_an_s3_address_is_remote():
    assert storage.is_remote("s3://bucket/pool")
    assert not storage.is_remote("data/s3/pool.parquet")
