"""A sheet while it is answered: each answer is on the disk before the next one is asked for."""

import json
from pathlib import Path
from typing import Any

from ost.anchors.sheet import ANSWER, told, whole, write_records
from ost.data.picture import shown
from ost.errors import DataError
from ost.formats import Draft, Images, Rejected, parse


class Sheet:
    """The questions and answers of a file that `write_sheet` wrote, or that has the same form."""

    def __init__(self, path: Path):
        """Raises DataError that names the lines that can't be asked."""
        self.path = path
        if not path.is_file():
            raise DataError(f"no sheet of questions at {path}: `ost anchors suggest` writes one")
        self._state = _state_of(path)
        self._records, refused = [], []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                self._records += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                refused.append(f"line {number}: it is not JSON: {error}")
        self._drafts: list[Draft] = []
        for number, record in enumerate(self._records, start=1):
            try:
                self._drafts.append(_asked(record))
            except Rejected as error:
                refused.append(f"record {number}: {error.why.detail}")
        if refused:
            raise DataError(told(refused, f"{path} is no sheet of questions"))
        self._images = Images(path.parent)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def answered(self) -> int:
        """How many have an answer."""
        return sum(bool(record[ANSWER]) for record in self._records)

    def to_json(self) -> list[dict[str, Any]]:
        """What is shown of each question: `task`, `turns` of a role and parts, each `{text}` or `{image: number}`, and
        `answer`, "" where there is none."""
        return [
            {"task": draft.task, "turns": _turns(draft), "answer": record[ANSWER] or ""}
            for record, draft in zip(self._records, self._drafts, strict=True)
        ]

    def image(self, at: int, number: int) -> tuple[bytes, str]:
        """An image of a question, as a file that any browser shows, and its media type.

        Raises LookupError where there is none, and what reading and decoding it raises.
        """
        if at < 0 or number < 0:
            raise LookupError
        return shown(self._images.load(self._images.locate(self._drafts[at].images[number], self.path)))

    def answer(self, at: int, text: str) -> None:
        """Write an answer into the file, or take one out where the text is blank.

        Raises LookupError where there is no such question, and DataError where somebody else has changed the file.
        """
        if not 0 <= at < len(self._records):
            raise LookupError
        if _state_of(self.path) != self._state:
            raise DataError(f"{self.path} was changed by somebody else: open it again")
        text.encode()  # half of a surrogate pair can't be written
        self._records[at][ANSWER] = text.strip() or None
        write_records(self.path, self._records)
        self._state = _state_of(self.path)


def _asked(record: Any) -> Draft:
    """The question of a record with any answer, for only a whole sample can be parsed."""
    if not isinstance(record, dict) or ANSWER not in record:
        raise Rejected("malformed", f"it has no `{ANSWER}` to be filled, so it asks nothing")
    if not isinstance(record[ANSWER], str | None):
        raise Rejected("malformed", f"`{ANSWER}` must be text or null")
    return parse(whole(record | {ANSWER: "?"}))


def _turns(draft: Draft) -> list[dict[str, Any]]:
    found, images = [], 0
    for message in draft.messages[:-1]:
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            is_image = part["type"] == "image"
            parts.append({"image": images} if is_image else {"text": part["text"]})
            images += is_image
        found.append({"role": message["role"], "parts": parts})
    return found


def _state_of(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_mtime_ns, state.st_size, state.st_ino
