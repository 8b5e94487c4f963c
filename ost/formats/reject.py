"""Why a record is kept out: the reasons, what carries them, and values shown short enough for a message."""

import reprlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

Reason = Literal[
    *("broken-file", "malformed", "unsupported", "missing-image", "broken-image", "image-too-large"),
    *("image-outside-folder", "empty-answer", "too-long", "cannot-encode", "duplicate", "in-anchors", "in-benchmark"),
]

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


class Why(NamedTuple):
    """What a check answers about a sample that must not be used."""

    reason: Reason
    detail: str


class Rejected(Exception):
    """Raised where a record cannot even become a sample."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.why = Why(reason, detail)


@dataclass(frozen=True, slots=True)
class Broken:
    """A place in the source where a record should stand, or many, but cannot be read."""

    detail: str
    reason: Reason = "malformed"


def unreadable(what: str, error: Exception, to: str = "") -> Broken:
    """A file, or a part of one, whose bytes are damaged; `to`: " to its end" where its first records were read."""
    return Broken(f"{what} cannot be read{to}: {show(str(error))}", "broken-file")


def show(value: object) -> str:
    """A value found in a record, short and escaped enough to stand in a message."""
    return _REPR.repr(value)
