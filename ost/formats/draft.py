"""From a raw record to a draft of a sample: the turns as messages, the images still as the record names them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ost.formats.fields import FIELDS, IDS, NOT_LOADED, RATINGS, TURNS
from ost.formats.marks import place_images, value_of
from ost.formats.reject import Broken, Rejected, show
from ost.formats.turns import read_turns, refuse_unsupported, text

_OURS = frozenset(("id", "tokens", "learned", "sizes", "file", "position", "ratings"))
"""Columns of our own shards beside the sample: what they say is made anew, or is carried over."""

_ONE_OF = TURNS | set(IDS) | {"own_id", "ratings"}
"""Fields of which a record is read by some alone."""


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
        if (name not in FIELDS or name in _ONE_OF) and _filled(fields[name]):
            unread.add(name)
    if _is_ours(fields):
        unread -= _OURS
    task = "" if task is None else text(task, "`task`")
    return Draft(messages, images, own_id, task, _ratings(fields), tuple(sorted(map(_printable, unread))))


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
    if missing and not any(_filled(record.get(name)) for name in TURNS):  # anchors may be in another form than the pool
        found = ", ".join(record)
        raise Rejected("malformed", f"data.columns names {show(missing[0])}, which is not there; found {show(found)}")
    present = {ours: theirs for ours, theirs in columns.items() if theirs in record}
    taken = set(present.values())
    kept = {name: value for name, value in record.items() if name not in taken}
    covered = {ours for ours in present if _filled(kept.get(ours))}
    return kept | {ours: record[theirs] for ours, theirs in present.items()}, covered


def _listed(fields: Mapping[str, Any]) -> list:
    """The images of a record's own column, one or many; [] where it has none."""
    many, one = (_as_list(fields.get(name)) for name in ("images", "image"))
    if many and one and [value_of(image) for image in many] != [value_of(image) for image in one]:
        raise Rejected("malformed", "both `images` and `image` are given and differ; keep `images`")
    return many or one


def _as_list(value: Any) -> list:
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value_of(value) is None and "bytes" in value:
        return []
    return [value]


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


def _printable(name: str) -> str:
    """A name of the user's own; JSON can spell half of a surrogate pair, which nothing can print."""
    return name.encode("utf-8", "backslashreplace").decode()


def _filled(value: Any) -> bool:
    return value is NOT_LOADED or (value is not None and value != "" and value != [] and value != {})
