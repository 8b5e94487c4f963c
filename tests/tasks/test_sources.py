"""A JSON file in object storage brings the images that it names, and what lies beside a source is watched."""

import json
from pathlib import Path

import boto3
import pytest

from flows.parameters import set_params
from stack.servers import S3, s3_server
from tasks.settings import load_params
from tasks.stages.context import Context
from tasks.stages.sources import MOST_WATCHED, bring, image_names, watch

BUCKET = "pools"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> S3:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def client(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    if not client.list_buckets()["Buckets"]:
        client.create_bucket(Bucket=BUCKET)
    return client


def record(*images: str) -> dict:
    turns = [{"from": "human", "value": "<image>" * len(images) + "What?"}, {"from": "gpt", "value": "That."}]
    return {"image": list(images), "conversations": turns}


def context(folder: Path, address: str) -> Context:
    set_params(folder / "params.yaml", [f"data.pool={address}"])
    return Context(folder, "ingest", load_params(folder / "params.yaml"))


def test_the_images_of_a_json_file_come_with_it(client, folder):
    body = json.dumps([record("img/a.png"), record("img/b.png", "deep/er/c.png"), record("lost.png")]).encode()
    for key, content in {
        "llava/pool.json": body,
        "llava/img/a.png": b"a",
        "llava/img/b.png": b"b",
        "llava/deep/er/c.png": b"c",
        "llava/img/other.png": b"nobody names it",
        "elsewhere/img/a.png": b"not ours",
    }.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
    address = f"s3://{BUCKET}/llava/pool.json"
    for _ in range(2):  # the second time all of it is there
        ctx = context(folder, address)
        fetched = bring(ctx, "pool")
        found = {path.relative_to(fetched.path.parent).as_posix() for path in fetched.path.parent.rglob("*.png")}
        assert found == {"img/a.png", "img/b.png", "deep/er/c.png"}
    mirror = fetched.path.parent.resolve()
    watch(ctx, "pool", [mirror / "img", mirror / "deep"])
    prefix = f"s3://{BUCKET}/llava"
    assert set(ctx.inputs) == {address, f"{prefix}/img", f"{prefix}/deep"}, "lineage and DVC would not see the images"

    client.delete_object(Bucket=BUCKET, Key="llava/img/b.png")
    bring(context(folder, address), "pool")
    assert not (mirror / "img/b.png").exists() and (mirror / "img/a.png").exists()


def test_only_relative_paths_are_fetched(tmp_path):
    named = ["a.png", "/etc/a.png", "data:image/png;base64,AAAA", "https://example.org/a.png"]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(record(name)) + "\n" for name in named))
    assert image_names(tmp_path / "pool.jsonl", {}) == {"a.png"}


def test_what_lies_beside_a_file_is_watched_and_a_folder_watches_itself(folder):
    (folder / "own/img").mkdir(parents=True)
    (folder / "own/pool.jsonl").write_text("{}")
    (folder / "roots").mkdir()
    beside = [(folder / "own/img").resolve(), (folder / "roots").resolve()]
    ctx = context(folder, "own/pool.jsonl")
    assert watch(ctx, "pool", beside) == [] and set(ctx.inputs) == {"own/img", "roots"}
    ctx = context(folder, "own")
    assert watch(ctx, "pool", beside) == [] and set(ctx.inputs) == {"roots"}


def test_too_many_loose_images_are_told(folder):
    (folder / "pool.jsonl").write_text("{}")
    loose = [folder / f"{number}.png" for number in range(MOST_WATCHED + 1)]
    ctx = context(folder, "pool.jsonl")
    (note,) = watch(ctx, "pool", [path.resolve() for path in loose])
    assert "put them into a folder" in note and not ctx.inputs
