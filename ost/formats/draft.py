"""From a raw record to a draft of a sample: the turns as messages, the images still as the record names them.

An image stands at a mark in the text, at a part of a message, or, where there is neither, before the first question.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ost.formats.fields import FIELDS, IDS, RATINGS, TURNS, filled
from ost.formats.images import value_of
from ost.formats.reject import Broken, Reason, Rejected, show
from ost.formats.turns import ASSISTANT, USER, Picture, Turn, read_turns, refuse_unsupported, text

_OURS = frozenset(("id", "tokens", "learned", "sizes", "file", "position", "ratings"))
"""Columns of our own shards beside the sample: what they say is made anew, or is carried over."""

_ONE_OF = TURNS | set(IDS) | {"own_id", "ratings"}
"""Fields of which a record is read by some alone."""


MARK = "<image>"
_MARKS = re.compile(f"({re.escape(MARK)})")
_OTHER = re.compile(r"<(?:video|audio)>|<img>.*?</img>", re.DOTALL)
"""Marks of LLaVA-Video, ms-swift and Qwen-VL that stand for what is not read."""

_FOREIGN = re.compile(
    r"<\|?image[ _-]?\d+\|?>|<\|image(?:_pad)?\|>|<image_placeholder>|<IMG_CONTEXT>|<ImageHere>|\[IMG\]|< ?image ?/?>",
    re.IGNORECASE,
)
"""Spellings that other projects, or models' own templates, have for an image's mark."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A sample but for its images' bytes."""

    messages: tuple[dict, ...]
    """Chat turns with an image part at each image's place."""
    images: tuple[Any, ...]
    """As the record names them (a path, a data URL, base64, bytes, or a struct of these), in the parts' order."""
    own_id: str | None
    """The record's own id as JSON text, so that 17 and "17" are two."""
    task: str
    ratings: dict[str, float]
    """FineVision's, each the least over the turns."""
    unread: tuple[str, ...]
    """Names of filled columns, and of fields within messages, that were not read."""


def parse(record: dict | Broken, columns: Mapping[str, str] | None = None) -> Draft:
    """The record in the data contract's form; `columns` maps our names of fields to the record's.

    Raises Rejected with `broken-file`, `malformed`, `unsupported` or `empty-answer`.
    """
    if isinstance(record, Broken):
        raise Rejected(record.reason, record.detail)
    fields, unread = _renamed(record, columns) if columns else (record, set())
    refuse_unsupported(fields, "the record")
    read = read_turns(fields)
    messages, images = place_images(read.turns, _listed(fields))
    own_id, id_name = _own_id(fields)
    task = fields.get("task")
    unread |= read.unread
    for name in fields.keys() - {id_name, *read.read}:
        if (name not in FIELDS or name in _ONE_OF) and filled(fields[name]):
            unread.add(name)
    if _is_ours(fields):
        unread -= _OURS
    task = "" if task is None else text(task, "`task`")
    # JSON can spell half of a surrogate pair, which nothing can print.
    names = sorted(name.encode("utf-8", "backslashreplace").decode() for name in unread)
    return Draft(messages, images, own_id, task, _ratings(fields), tuple(names))


def _is_ours(fields: Mapping[str, Any]) -> bool:
    """Whether a record is a row of our own shards, and no user's record that has some of their names."""
    ratings = fields.get("ratings")
    return (
        {"own_id", "learned", "tokens", "file", "position"} <= fields.keys()
        and isinstance(fields["own_id"], str | None)
        and isinstance(ratings, list)
        and all(isinstance(one, dict) and one.keys() == {"name", "value"} for one in ratings)
    )


def _renamed(record: dict, columns: Mapping[str, str]) -> tuple[dict, set[str]]:
    """The record under our names, and the names of what a renamed column stands before."""
    missing = [theirs for ours, theirs in columns.items() if ours in TURNS and theirs not in record]
    if missing and not any(filled(record.get(name)) for name in TURNS):  # anchors may be in another form than the pool
        found = ", ".join(record)
        raise Rejected("malformed", f"data.columns names {show(missing[0])}, which is not there; found {show(found)}")
    present = {ours: theirs for ours, theirs in columns.items() if theirs in record}
    taken = set(present.values())
    kept = {name: value for name, value in record.items() if name not in taken}
    covered = {ours for ours in present if filled(kept.get(ours))}
    return kept | {ours: record[theirs] for ours, theirs in present.items()}, covered


def _listed(fields: Mapping[str, Any]) -> list:
    """The images of a record's own column, one or many; [] where it has none."""
    many, one = (_as_list(fields.get(name)) for name in ("images", "image"))
    if many and one and [value_of(image) for image in many] != [value_of(image) for image in one]:
        raise Rejected("malformed", "both `images` and `image` are given and differ; keep `images`")
    return many or one


def _as_list(value: Any) -> list:
    if isinstance(value, list):
        return value
    is_struct_of_none = isinstance(value, dict) and value_of(value) is None and "bytes" in value
    return [] if value is None or value == "" or is_struct_of_none else [value]


def _own_id(fields: Mapping[str, Any]) -> tuple[str | None, str]:
    if _is_ours(fields):
        return fields["own_id"], "own_id"
    for name in IDS:
        value = fields.get(name)
        if isinstance(value, str | int | float) and value == value:  # not a number is no id
            plain = not isinstance(value, str) or value.isascii() or value.isprintable()
            return json.dumps(value, ensure_ascii=not plain), name
    return None, ""


def _ratings(fields: Mapping[str, Any]) -> dict[str, float]:
    if _is_ours(fields):
        found = {rating["name"]: rating["value"] for rating in fields["ratings"]}
    else:
        found = {name: _least(fields, name) for name in RATINGS}
    return {name: value for name, value in found.items() if value is not None}


def _least(fields: Mapping[str, Any], name: str) -> float | None:
    """A rating over all turns: as the record has it, else the least of theirs; None where there is none."""
    own = _number(fields.get(f"{name}_min"))
    each = fields.get(f"{name}_ratings")
    if own is not None or not isinstance(each, list):
        return own
    return min((value for value in map(_number, each) if value is not None), default=None)


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def place_images(turns: Sequence[Turn], listed: Sequence[Any]) -> tuple[tuple[dict, ...], tuple[Any, ...]]:
    """The messages with an image part at each image's place, and the images as the record names them, in that order.

    `listed` are the record's own images; a part may hold its image itself instead, or besides. Raises Rejected with
    `malformed`, or `unsupported` for the marks of videos and sounds.
    """
    pictures: list[Picture] = []
    marks = 0
    for turn in turns:
        texts = [part for part in turn.parts if isinstance(part, str)]
        _refuse(_OTHER, [*texts, turn.reasoning], "unsupported", "would reach the model as plain text")
        if turn.role == ASSISTANT:
            _refuse_answer(turn)
            continue
        marks += sum(words.count(MARK) for words in texts)
        turn.parts = [piece for part in turn.parts for piece in _split(part)]
        pictures += [part for part in turn.parts if isinstance(part, Picture)]
    if listed and not pictures:
        texts = [part for turn in turns if turn.role != ASSISTANT for part in turn.parts if isinstance(part, str)]
        _refuse(_FOREIGN, texts, "malformed", f"looks like an image's place: write {MARK} there")
        first = next(turn for turn in turns if turn.role == USER)
        first.parts = [*(Picture() for _ in listed), *first.parts]
        return tuple(map(_message, turns)), tuple(listed)
    return tuple(map(_message, turns)), _images(pictures, listed, marks)


def _split(part: str | Picture) -> list[str | Picture]:
    if isinstance(part, Picture) or MARK not in part:
        return [part]
    return [Picture() if piece == MARK else piece for piece in _MARKS.split(part) if piece]


def _refuse(pattern: re.Pattern, texts: Sequence[str], reason: Reason, why: str) -> None:
    if found := next(filter(None, map(pattern.search, texts)), None):
        raise Rejected(reason, f"the text holds {show(found[0])}, which {why}")


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
