"""Where a record's images stand: at marks in its text, at parts in its messages, or in front of the first question."""

import re
from collections.abc import Sequence
from typing import Any

from ost.formats.reject import Rejected, show
from ost.formats.turns import ASSISTANT, USER, Picture, Turn

MARK = "<image>"
_MARKS = re.compile(f"({re.escape(MARK)})")
_OTHER = re.compile(r"<(?:video|audio)>|<img>.*?</img>", re.DOTALL)
"""Marks of LLaVA-Video, ms-swift and Qwen-VL that stand for what is not read."""

_FOREIGN = re.compile(
    r"<\|?image[ _-]?\d+\|?>|<\|image(?:_pad)?\|>|<image_placeholder>|<IMG_CONTEXT>|<ImageHere>|\[IMG\]|< ?image ?/?>",
    re.IGNORECASE,
)
"""Spellings that other projects, or models' own templates, have for an image's mark."""

_VALUES = ("bytes", "path", "url", "base64", "image")


def place_images(turns: Sequence[Turn], listed: Sequence[Any]) -> tuple[tuple[dict, ...], tuple[Any, ...]]:
    """The messages with an image part at each image's place, and the images as the record names them, in that order.

    `listed` are the record's own images; a part may hold its image itself instead, or besides. Raises Rejected with
    `malformed`, or `unsupported` for the marks of videos and sounds.
    """
    pictures: list[Picture] = []
    marks = 0
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, str) and "<" in part:
                _refuse_other(part)
        if "<" in turn.reasoning:
            _refuse_other(turn.reasoning)
        if turn.role == ASSISTANT:
            _refuse_answer(turn)
            continue
        if any(isinstance(part, str) and MARK in part for part in turn.parts):
            marks += sum(part.count(MARK) for part in turn.parts if isinstance(part, str))
            turn.parts = [piece for part in turn.parts for piece in _split(part)]
        pictures += [part for part in turn.parts if isinstance(part, Picture)]
    if listed and not pictures:
        _refuse_foreign(turns)
        first = next(turn for turn in turns if turn.role == USER)
        first.parts = [*(Picture() for _ in listed), *first.parts]
        return _messages(turns), tuple(listed)
    return _messages(turns), _images(pictures, listed, marks)


def value_of(image: Any) -> Any:
    """What an image value names: itself, or what a struct such as {"bytes", "path"} holds; None for an empty one."""
    while isinstance(image, dict):
        image = next((image[name] for name in _VALUES if image.get(name) is not None), None)
    return image


def _split(part: str | Picture) -> list[str | Picture]:
    if isinstance(part, Picture) or MARK not in part:
        return [part]
    return [Picture() if piece == MARK else piece for piece in _MARKS.split(part) if piece]


def _refuse_other(words: str) -> None:
    if found := _OTHER.search(words):
        raise Rejected("unsupported", f"the text holds {show(found[0])}, which would reach the model as plain text")


def _refuse_foreign(turns: Sequence[Turn]) -> None:
    """Refuse what looks like marks of images that would be put in front of the first question instead."""
    words = [part for turn in turns if turn.role != ASSISTANT for part in turn.parts if isinstance(part, str)]
    if found := next(filter(None, map(_FOREIGN.search, words)), None):
        raise Rejected(
            "malformed",
            f"the text holds {show(found[0])}, which looks like an image's place: write {MARK} there",
        )


def _refuse_answer(turn: Turn) -> None:
    if any(isinstance(part, Picture) for part in turn.parts):
        raise Rejected("malformed", "an answer holds an image part; only text can be trained on")
    if any(MARK in part for part in (*turn.parts, turn.reasoning)):
        raise Rejected("malformed", f"an answer holds the mark {MARK}; only text can be trained on")


def _images(pictures: Sequence[Picture], listed: Sequence[Any], marks: int) -> tuple[Any, ...]:
    own = [picture.value for picture in pictures]
    if not listed and None not in own:
        return tuple(own)
    if len(listed) != len(pictures):
        places = f"{marks} mark(s) {MARK} and {len(pictures) - marks} image part(s)"
        raise Rejected("malformed", f"{places} in the messages, but {len(listed)} image(s) given")
    for value, image in zip(own, listed, strict=True):
        if value is not None and value_of(value) != value_of(image):
            raise Rejected("malformed", f"an image part holds {show(value)}, but `images` has {show(image)} there")
    return tuple(listed)


def _messages(turns: Sequence[Turn]) -> tuple[dict, ...]:
    return tuple(_message(turn) for turn in turns)


def _message(turn: Turn) -> dict:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "text": None}
        for part in turn.parts
    ]
    message = {"role": turn.role, "content": content}
    if turn.role == ASSISTANT and not turn.learned:
        message["loss"] = False
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    return message
