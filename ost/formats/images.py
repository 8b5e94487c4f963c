"""A record's images: where the file lies that a path names, and the bytes."""

# A pool has hundreds of thousands of paths, and pathlib takes longer than all the rest:
# ruff: noqa: PTH116, PTH118

import base64
import configparser
import functools
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ost.formats.reject import Rejected, show
from ost.formats.unit import MOST_RECORD

MOST_BYTES = MOST_RECORD
"""Bytes of an encoded image, and of all images of a record, beyond which they are refused unread."""

SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""What image files that are read are named by."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""How images begin; base64 that decodes to nothing of the kind is a path."""

_VALUES = ("bytes", "path", "url", "base64", "image")
"""Where a struct may hold its image, the first that it has."""

_KNOWN = 1 << 14
"""Folders whose resolved names are remembered."""


class Images:
    """Finds and loads what raw image values name, within the folders that a source may read from.

    Those are the source's root, `roots`, which the user named, and the caches of a DVC workspace around the root: DVC
    may leave links into them in place of files. No message holds a folder's own path, so that it is the same on every
    machine.
    """

    def __init__(self, root: Path, roots: Sequence[str | Path] = ()):
        self._root = os.path.realpath(root)
        self._roots = [os.path.realpath(Path(folder).expanduser()) for folder in roots]
        self._allowed = [self._root, *self._roots]
        self._caches = _dvc_caches(Path(self._root))
        self._real = functools.lru_cache(_KNOWN)(os.path.realpath)

    def locate(self, value: Any, file: Path) -> Path | bytes:
        """The image's bytes, or the path of its file, which exists, for an image of a record in `file`.

        A path is looked for in its own file's folder, then in the source's root, then in `roots`. Raises Rejected with
        `missing-image`, `broken-image`, `image-too-large`, `image-outside-folder` or `malformed`.
        """
        value = value_of(value)
        if isinstance(value, bytes):
            return _bounded(value, len(value))
        if value is None or value == "":
            raise Rejected("missing-image", "an image is listed, but has neither bytes nor a path")
        if not isinstance(value, str):
            raise Rejected("malformed", f"an image must be a path, a data URL, base64 or bytes; found {show(value)}")
        if value.startswith("data:"):
            return _from_data_url(value)
        if (image := _from_base64(value)) is not None:
            return image
        name = value.removeprefix("file://")
        if "://" in name:
            raise Rejected(
                "missing-image", f"{show(value)}: addresses are not fetched; give the file beside the records"
            )
        return self._find(name, file)

    def load(self, located: Path | bytes, most: int | None = None) -> bytes:
        """The bytes of what `locate` found, at most MOST_BYTES, or `most`: what other images of the record leave.

        Raises Rejected with `missing-image` or `image-too-large`.
        """
        if isinstance(located, bytes):
            return _bounded(located, len(located), most)
        try:
            with located.open("rb") as stream:
                _bounded(b"", os.fstat(stream.fileno()).st_size, most)
                return _bounded(image := stream.read((MOST_BYTES if most is None else most) + 1), len(image), most)
        except OSError as error:
            raise Rejected("missing-image", f"{show(located.name)} cannot be read ({type(error).__name__})") from error

    def _find(self, name: str, file: Path) -> Path:
        link = absent = False
        fault: Exception | None = None
        for folder in dict.fromkeys((str(file.parent), self._root, *self._roots)):
            candidate = os.path.join(folder, name)
            try:
                mode, real = self._resolve(candidate)
            except FileNotFoundError:
                mode, real = 0, candidate
            except (OSError, ValueError) as error:  # no permission; a zero byte; a name too long; a loop of links
                fault = error
                continue
            inside = any(_within(os.path.normpath(candidate), own) for own in (folder, *self._allowed))
            if any(_within(real, own) for own in (*self._allowed, *(self._caches if inside else ()))):
                if stat.S_ISREG(mode):
                    return Path(real)
                absent = True
            else:
                link = link or inside
        if link or not (absent or fault):
            leads = "is a link that leads" if link else "leads"
            remedy = "name the folder that it leads into in data.image_roots"
            raise Rejected("image-outside-folder", f"{show(name)} {leads} out of the source's folder; {remedy}")
        if fault:
            raise Rejected("missing-image", f"{show(name)} cannot be read ({type(fault).__name__})") from fault
        others = ", nor in data.image_roots" if self._roots else "; name others in data.image_roots"
        raise Rejected(
            "missing-image", f"{show(name)}: no such file in the record's own folder, nor in the source's{others}"
        )

    def _resolve(self, path: str) -> tuple[int, str]:
        """The mode of what stands there, 0 for nothing, and its path with all links resolved."""
        folder, base = os.path.split(path)
        if base in ("", ".", ".."):
            return 0, os.path.realpath(path)
        path = os.path.join(self._real(folder), base)
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0, path
        if not stat.S_ISLNK(mode):
            return mode, path
        path = os.path.realpath(path)
        return os.stat(path).st_mode, path


def value_of(image: Any) -> Any:
    """What an image value names: itself, or what a struct such as {"bytes", "path"} holds; None for an empty one."""
    while isinstance(image, dict):
        image = next((image[name] for name in _VALUES if image.get(name) is not None), None)
    return image


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def _dvc_caches(root: Path) -> list[str]:
    """The caches of the DVC workspaces around a folder: `.dvc/cache`, or where their configuration puts it."""
    found = []
    for workspace in (root, *root.parents):
        if (workspace / ".dvc").is_dir():
            folder = workspace / ".dvc"
            config = configparser.ConfigParser(interpolation=None, strict=False)
            try:
                config.read([folder / "config", folder / "config.local"])
                named = config.get("cache", "dir", fallback="cache")
            except (configparser.Error, OSError, ValueError):
                named = "cache"
            found.append(os.path.realpath(folder / named))
    return found


def _bounded(image: bytes, size: int, most: int | None = None) -> bytes:
    if size > MOST_BYTES:
        raise Rejected("image-too-large", f"an image of {size:,} bytes or more; at most {MOST_BYTES:,} are read")
    if most is not None and size > most:
        raise Rejected("image-too-large", f"the record's images have more than {MOST_BYTES:,} bytes together")
    return image


def _from_data_url(url: str) -> bytes:
    header, _, payload = url.partition(",")
    if not header.endswith(";base64"):
        raise Rejected("broken-image", f"only base64 data URLs are read; found {show(url)}")
    _bounded(b"", len(payload) * 3 // 4)
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise Rejected("broken-image", f"the data URL {show(url)} is not base64: {error}") from error


def _from_base64(value: str) -> bytes | None:
    """The bytes of bare base64; None for what is none, or no image's, and may be a path."""
    try:
        # Its head first, so that no long text is looked through in vain.
        head = base64.b64decode(value[:24], validate=True) if len(value) >= 40 else b""
        if not head.startswith(_MAGIC) or not _BASE64.fullmatch(value):
            return None
        _bounded(b"", len(value) * 3 // 4)
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        return None
