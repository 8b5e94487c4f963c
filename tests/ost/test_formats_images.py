"""Where an image is looked for, what is never followed, and what is never loaded."""

import base64
import os
from pathlib import Path

import pytest

from ost.formats import Images, Reason, Rejected
from ost.formats import images as images_module

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(64))


def written(path: Path, content: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def pool(tmp_path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


def loaded(images: Images, value, file: Path) -> bytes:
    return images.load(images.locate(value, file))


def refusal(images: Images, value, file: Path) -> tuple[Reason, str]:
    with pytest.raises(Rejected) as rejected:
        loaded(images, value, file)
    return rejected.value.why


# --- where ----------------------------------------------------------------------------------------------------------


def test_its_own_files_folder_comes_first_then_the_root_then_the_named_roots(pool, tmp_path):
    week1, week2 = pool / "week1/rows.jsonl", pool / "week2/rows.jsonl"
    written(pool / "a.png", b"root")
    written(pool / "week1/a.png", b"week1")
    written(tmp_path / "coco/b.png", b"coco")
    written(tmp_path / "more/b.png", b"more")
    (pool / "week2").mkdir()
    images = Images(pool, [tmp_path / "coco", tmp_path / "more"])
    assert [loaded(images, "a.png", file) for file in (week1, week2)] == [b"week1", b"root"]
    assert loaded(images, "b.png", week1) == b"coco"
    assert loaded(images, "../a.png", week1) == b"root", "up, but within the source"
    assert loaded(images, str(tmp_path / "more/b.png"), week1) == b"more", "an absolute path into a named root"
    assert loaded(images, str(pool / "a.png"), week1) == b"root"
    assert loaded(images, f"file://{pool}/a.png", week1) == b"root"


def test_what_is_found_is_the_real_path(pool):
    written(pool / "real.png")
    (pool / "link.png").symlink_to("real.png")
    (pool / "folder").symlink_to(".")
    images = Images(pool)
    for name in ("link.png", "folder/link.png", "./folder/real.png"):
        assert images.locate(name, pool / "x.jsonl") == (pool / "real.png").resolve()


def test_links_lead_into_named_roots_alone(pool, tmp_path):
    written(tmp_path / "hub/blobs/abc")
    (pool / "a.png").symlink_to(tmp_path / "hub/blobs/abc")
    (pool / "all").symlink_to(tmp_path / "hub/blobs")
    for name in ("a.png", "all/abc"):
        reason, detail = refusal(Images(pool), name, pool / "x.jsonl")
        assert reason == "image-outside-folder" and "link" in detail and "data.image_roots" in detail
        assert loaded(Images(pool, [tmp_path / "hub"]), name, pool / "x.jsonl") == PNG


CONFIGS = ["", "[core]\n  autostage = true\n['remote \"x\"']\n  url = s3://x%y\n", "[cache]\n  dir = {}\n"]


@pytest.mark.parametrize("config", CONFIGS, ids=["none", "of other things", "a cache elsewhere"])
def test_links_lead_into_the_cache_of_the_dvc_workspace_around(config, pool, tmp_path):
    apart = tmp_path / "elsewhere/dvc"
    cache = apart if "{}" in config else tmp_path / ".dvc/cache"
    written(tmp_path / ".dvc/config", config.format(apart).encode())
    target = written(cache / "files/md5/ab/cdef")
    (pool / "a.png").symlink_to(target)
    images = Images(pool)
    assert loaded(images, "a.png", pool / "x.jsonl") == PNG
    assert refusal(images, str(target), pool / "x.jsonl")[0] == "image-outside-folder", "only links may lead there"
    assert refusal(images, "../.dvc/config", pool / "x.jsonl")[0] == "image-outside-folder"


def test_a_cache_that_is_no_workspaces_is_not_followed(pool, tmp_path):
    (pool / "a.png").symlink_to(written(tmp_path / "other/.dvc/cache/files/md5/ab/cdef"))
    assert refusal(Images(pool), "a.png", pool / "x.jsonl")[0] == "image-outside-folder"


OUTSIDE = {
    "up": ("../secret.png", "image-outside-folder"),
    "up, and not there": ("../absent.png", "image-outside-folder"),
    "absolute": ("/etc/hostname", "image-outside-folder"),
    "a link": ("link.png", "image-outside-folder"),
    "through a link": ("linked/secret.png", "image-outside-folder"),
    "down and up": ("inner/../../secret.png", "image-outside-folder"),
    "absent": ("absent.png", "missing-image"),
    "up, but within the source, and not there": ("../absent.png", "missing-image", "week/rows.jsonl"),
    "a folder": ("inner", "missing-image"),
    "itself": (".", "missing-image"),
    "its parent": ("..", "image-outside-folder"),
    "an address": ("https://example.org/a.png", "missing-image"),
    "a bucket": ("s3://bucket/a.png", "missing-image"),
    "a zero byte": ("a\0.png", "missing-image"),
    "half a surrogate pair": ("\ud83d.png", "missing-image"),
    "a name too long": ("a" * 5000, "missing-image"),
    "a loop": ("loop.png", "missing-image"),
    "a dangling link": ("dangling.png", "missing-image"),
    "a file as a folder": ("x.png/a.png", "missing-image"),
    "empty": ("", "missing-image"),
    "null": (None, "missing-image"),
    "neither bytes nor path": ({"bytes": None, "path": None}, "missing-image"),
    "a number": (3, "malformed"),
    "a list": (["a.png"], "malformed"),
    "a data URL in plain text": ("data:image/svg+xml,<svg/>", "broken-image"),
    "not base64": ("data:image/png;base64,@@@", "broken-image"),
    "a pipe": ("pipe.png", "missing-image"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_cannot_be_found_says_why_and_names_no_folder_of_this_machine(name, pool, tmp_path):
    value, reason, *file = OUTSIDE[name]
    written(tmp_path / "secret.png")
    written(pool / "x.png")
    (pool / "inner").mkdir()
    os.mkfifo(pool / "pipe.png")
    (pool / "week").mkdir()
    (pool / "link.png").symlink_to(tmp_path / "secret.png")
    (pool / "linked").symlink_to(tmp_path)
    (pool / "loop.png").symlink_to("loop.png")
    (pool / "dangling.png").symlink_to("nothing.png")
    found, detail = refusal(Images(pool), value, pool / (file[0] if file else "rows.jsonl"))
    assert found == reason
    assert str(tmp_path) not in detail and detail.encode()
    assert ("link" in detail) is (name in ("a link", "through a link"))


# --- what the value holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        PNG,
        {"bytes": PNG, "path": "absent.png"},
        {"bytes": None, "path": "a.png"},
        {"url": "data:image/png;base64," + base64.b64encode(PNG).decode(), "detail": "low"},
        base64.b64encode(PNG).decode(),
        base64.encodebytes(PNG).decode(),
        "data:image/png;charset=utf-8;base64," + base64.b64encode(PNG).decode(),
    ],
    ids=["bytes", "struct", "struct with a path", "url", "base64", "base64 in lines", "data URL"],
)
def test_an_image_in_each_way_that_a_record_can_hold_it(value, pool):
    written(pool / "a.png")
    assert loaded(Images(pool), value, pool / "x.jsonl") == PNG


def test_base64_is_an_image_only_where_it_decodes_to_one(pool):
    """JPEGs begin with /9j/, as a path may."""
    text = base64.b64encode(JPEG).decode()
    assert text.startswith("/9j/") and loaded(Images(pool), text, pool / "x.jsonl") == JPEG
    name = "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQg"
    written(pool / name)
    assert loaded(Images(pool), name, pool / "x.jsonl") == PNG, "a path, though it is base64 too"


def test_nothing_is_loaded_beyond_a_limit(pool, monkeypatch):
    monkeypatch.setattr(images_module, "MOST_BYTES", 1000)
    with written(pool / "huge.png").open("r+b") as sparse:
        sparse.truncate(1 << 40)
    url = "data:image/png;base64," + base64.b64encode(PNG * 20).decode()
    for value in ("huge.png", url, base64.b64encode(PNG * 20).decode(), PNG * 20, {"bytes": PNG * 20}):
        assert refusal(Images(pool), value, pool / "x.jsonl")[0] == "image-too-large"
    assert loaded(Images(pool), PNG, pool / "x.jsonl") == PNG
