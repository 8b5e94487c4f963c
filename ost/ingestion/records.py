"""From a raw record to a Sample: the chat turns normalised, the images as bytes."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ost.data import Sample
from ost.ingestion.quarantine import Rejected, show
from ost.ingestion.readers import Broken

ROLES = ("system", "user", "assistant")
IMAGE_PART = {"type": "image", "text": None}


def to_sample(record: dict | Broken, folder: Path) -> Sample:
    """The record in the data contract's form; `folder` (resolved) is where its image paths start.

    Raises Rejected with `broken-file`, `malformed`, `missing-image`, `broken-image` or `image-outside-folder`.
    """
    if isinstance(record, Broken):
        raise Rejected(record.reason, record.detail)
    turns = _turns(record.get("messages"))
    images = _images(record)
    task = "" if record.get("task") is None else _string(record["task"], "`task`")
    messages = _place_images(turns, len(images))
    # Files are opened last: what is wrong in the record itself costs no reading.
    return Sample(images=tuple(_image(image, folder) for image in images), messages=tuple(messages), task=task)


def _turns(value: Any) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise Rejected("malformed", f"`messages` must be a list of chat turns; found {show(value)}")
    turns = [_turn(turn) for turn in value]
    roles = [turn["role"] for turn in turns]
    if roles[-1] != "assistant":
        raise Rejected("malformed", f"the last message must be the assistant's answer; it is by the {roles[-1]}")
    if "user" not in roles:
        raise Rejected("malformed", "no message is by the user, so nothing was asked")
    return turns


def _turn(value: Any) -> dict:
    if not isinstance(value, dict):
        raise Rejected("malformed", f"a message must hold `role` and `content`; found {show(value)}")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise Rejected("malformed", f"the role must be one of {', '.join(ROLES)}; found {show(role)}")
    if not isinstance(content, str | list):
        raise Rejected("malformed", f"`content` must be text or a list of parts; found {show(content)}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {"role": role, "content": [_part(part) for part in parts]}


def _part(value: Any) -> dict:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "image":
        return IMAGE_PART
    if kind == "text":
        return {"type": "text", "text": _string(value.get("text"), "a text part")}
    raise Rejected("malformed", f"a part must be of type image or text; found {show(value)}")


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Rejected("malformed", f"{name} must be text; found {show(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which no tokenizer and no table takes.
        raise Rejected("malformed", f"{name} is not valid Unicode: {show(value)}") from error
    return value


def _images(record: dict) -> list:
    many, one = record.get("images"), record.get("image")
    if many is not None and one is not None:
        raise Rejected("malformed", "both `images` and `image` are given; keep `images`")
    images = many if one is None else [one]
    if images is not None and not isinstance(images, list):
        raise Rejected("malformed", f"`images` must be a list; found {show(images)}")
    return images or []


def _place_images(turns: Sequence[dict], count: int) -> list[dict]:
    """The turns with one part for each of `count` images; they open the first user turn where the record has none."""
    parts = [part["type"] for turn in turns for part in turn["content"]].count("image")
    if count and not parts:
        first = [turn["role"] for turn in turns].index("user")
        opened = {"role": "user", "content": [IMAGE_PART] * count + turns[first]["content"]}
        return [*turns[:first], opened, *turns[first + 1 :]]
    if parts != count:
        raise Rejected("malformed", f"{parts} image part(s) in the messages, but {count} image(s) given")
    if IMAGE_PART in turns[-1]["content"]:
        raise Rejected("malformed", "the answer holds an image part; only text can be trained on")
    return list(turns)


def _image(value: Any, folder: Path) -> bytes:
    """An image's encoded bytes, from any of the ways in which a record can hold it."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    match value:
        case bytes():
            return value
        case str() if value.startswith("data:"):
            return _from_data_url(value)
        case str():
            return _from_file(value, folder)
        case None:
            raise Rejected("missing-image", "an image is listed, but has neither bytes nor a path")
    raise Rejected("malformed", f"an image must be a path, a data URL or bytes; found {show(value)}")


def _from_data_url(url: str) -> bytes:
    header, _, payload = url.partition(",")
    if not header.endswith(";base64"):
        raise Rejected("broken-image", f"only base64 data URLs are read; found {show(url)}")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise Rejected("broken-image", f"the data URL {show(url)} is not base64: {error}") from error


def _from_file(name: str, folder: Path) -> bytes:
    # No message holds the folder's own path: the quarantine table is the same on every machine.
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise Rejected(
                "image-outside-folder", f"{show(name)} leads out of the source's folder; copy the image into it"
            )
        if path.is_file():
            return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # no permission; a zero byte; a loop of links
        raise Rejected("missing-image", f"{show(name)} cannot be read ({type(error).__name__})") from error
    hint = "addresses are not fetched" if "://" in name else "no such file in the source's folder"
    raise Rejected("missing-image", f"{show(name)}: {hint}")
