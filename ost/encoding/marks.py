"""Marks that travel inside a text, from the chat template to the tokenizer: private-use characters no text holds.

Two of them stand around what is learned, and are taken out before anything is tokenized. Others hide control tokens
that a message's text spells, such as "<|im_end|>" in an answer about chat templates: the first character is exchanged
for one of its own until the tokenizer's own marks are found, so template and processor see plain text there.
"""

import re
from collections.abc import Iterable

from ost.errors import DataError

BLOCK, BLOCKS = 256, range(0x100000, 0x10F000, 256)
"""Characters of a set of marks, and where in Unicode's last private plane a set may begin."""
HIDDEN = 16
"""The first of a set's characters that hides another."""

_PRIVATE = re.compile("[\U00100000-\U0010efff]")


class Marks:
    """One set of marks, chosen so that none of the texts in hand holds any of them."""

    def __init__(self, control: re.Pattern, initials: str, first: int = BLOCKS[0]):
        """`control` matches the control tokens; `initials`: the characters that they begin with."""
        self._control, self._initials, self.first = control, initials, first
        self.opens, self.closes, self.stands_in = (chr(first + at) for at in range(3))
        hidden = [chr(first + HIDDEN + at) for at in range(len(initials))]
        self._hide = dict(zip(initials, hidden, strict=True))
        self._show = {ord(mark): character for character, mark in self._hide.items()}
        self._any_hidden = re.compile(f"[{''.join(hidden)}]" if hidden else "(?!)")

    def fresh_for(self, texts: Iterable[str]) -> "Marks":
        """These marks, or others where a text holds one of these; raises DataError where texts hold some of all."""
        taken = {(ord(found) - BLOCKS[0]) // BLOCK for text in texts for found in _PRIVATE.findall(text)}
        if not taken:
            return self
        free = next((block for at, block in enumerate(BLOCKS) if at not in taken), None)
        if free is None:
            raise DataError("the texts hold characters of all of Unicode's last private plane, which must be left free")
        return Marks(self._control, self._initials, free)

    def hide(self, text: str) -> str:
        """The text with every control token that it spells hidden; as long as before."""
        while self._control.search(text):  # what one leaves may spell another
            text = self._control.sub(lambda found: self._hide[found[0][0]] + found[0][1:], text)
        return text

    def show(self, text: str) -> str:
        """What `hide` was given."""
        return text.translate(self._show) if self.hides(text) else text

    def hides(self, text: str) -> bool:
        """Whether a control token is hidden in the text."""
        return not text.isascii() and self._any_hidden.search(text) is not None

    def stand_in(self, number: int) -> str:
        """A word that stands in for the text of a turn."""
        return f"{self.stands_in}{number}{self.stands_in}"

    def split(self, text: str, count: int) -> list[str] | None:
        """What stands around `count` stand-ins, each there once and in order; else None."""
        pieces = text.split(self.stands_in)
        numbers = [str(number) for number in range(count)]
        return pieces[::2] if pieces[1::2] == numbers else None

    def around(self, text: str, spans: Iterable[tuple[int, int]]) -> str:
        """The text with marks around spans, which are in order and do not touch."""
        marked, last = [], 0
        for start, end in spans:
            marked += [text[last:start], self.opens, text[start:end], self.closes]
            last = end
        return "".join([*marked, text[last:]])

    def spans(self, marked: str) -> tuple[str, list[tuple[int, int]]]:
        """What `around` was given, wherever in the text it has been carried."""
        spans: list[tuple[int, int]] = []
        pieces, at = [], 0
        for before_and_span in marked.split(self.opens):
            inside, closed, after = before_and_span.rpartition(self.closes)
            if closed:
                spans.append((at, at + len(inside)))
            pieces += [inside, after]
            at += len(inside) + len(after)
        return "".join(pieces), spans
