"""Which characters of a rendered conversation are learned: each answer, from its generation prompt to its end token.

The template says so itself. Rendered once more with a stand-in for every answer, it shows what it writes around them:
piece 0, answer 0, piece 1, …, answer n-1, piece n. And the prompt that a model would be given for an answer is, as a
rule, where that answer's part of the whole begins, with all that the template puts before an answer: an empty block of
reasoning, say, which has to be generated too.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ost.data.sample import is_learned, text_of
from ost.encoding.control import Marks
from ost.encoding.template import THOUGHT, Template
from ost.errors import DataError

MERGED = "so its answers cannot be told from its prompts"


@dataclass(frozen=True)
class Written:
    """A conversation as the template writes it, up to the end of its last answer."""

    text: str
    spans: list[tuple[int, int]]
    """First character and end of what is learned, in order."""


def write_learned(
    messages: Sequence[dict], template: Template, marks: Marks, tokens: re.Pattern, end: str | None
) -> Written:
    """A sample's messages as the template writes them, and where they are learned.

    `messages` hold no control tokens (see `Marks.hide`). `tokens` matches the tokens that may end a turn; where none
    follows the last answer, `end` is put there and learned. Raises DataError where answers and prompts can't be told
    apart, or the template leaves something out.
    """
    turns = [template.turn(message) for message in messages]
    whole = template.render(turns)
    _check_prompts(messages, whole)
    places = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    blanks = list(turns)
    for number, at in enumerate(places):
        blanks[at] = template.turn(messages[at], marks.stand_in(number))
    pieces = marks.split(template.render(blanks), len(places))
    if pieces is None or not whole.endswith(pieces[-1]):
        raise DataError(f"the chat template does not write each answer once, {MERGED}")
    tail = pieces[-1].rstrip()
    answers = _answers(whole, pieces, [text_of(messages[at]) for at in places])
    spans = []
    for number, at in enumerate(places):
        if not is_learned(messages[at]):
            continue
        _check_reasoning(messages[at], whole)
        prompt = template.render(turns[:at], answer_next=True) if at else ""
        start = len(prompt) if at and whole.startswith(prompt) else None
        if answers:
            first, last = answers[number]
        else:
            following = places[number + 1 :][:1]
            limit = template.render(turns[: following[0]], answer_next=True) if following else whole
            first, last = _between(whole, start, limit, pieces[number + 1], text_of(messages[at]))
        first = first if start is None or start > last else start
        _check_reasoning(messages[at], whole[first:last])
        spans.append((first, last + _ending(whole[last:], pieces[number + 1], tail, tokens)))
    text = whole[: len(whole) - len(pieces[-1]) + len(tail)]
    return Written(text, spans) if tokens.search(tail) else _ended(text, spans, end)


def _answers(whole: str, pieces: Sequence[str], texts: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where each answer stands, as it is or without white space at its ends; None where one stands otherwise."""
    at, found = len(pieces[0]), []
    if not whole.startswith(pieces[0]):
        return None
    for text, piece in zip(texts, pieces[1:], strict=True):
        forms = dict.fromkeys((text, text.strip(), text.rstrip(), text.lstrip()))
        form = next((form for form in forms if whole.startswith(form + piece, at)), None)
        if form is None:
            return None
        found.append((at, at + len(form)))
        at += len(form) + len(piece)
    return found if at == len(whole) else None


def _between(whole: str, start: int | None, limit: str, piece: str, text: str) -> tuple[int, int]:
    """Where an answer stands that the template has taken apart, as one may whose content holds reasoning.

    It begins behind its own prompt, and before the next one (`limit`) stands the piece that follows it.
    """
    if start is None or not whole.startswith(limit):
        raise DataError(f"the chat template changes an answer, {MERGED}")
    most = min(len(piece), len(limit) - start)
    length = next((length for length in range(most, -1, -1) if limit.endswith(piece[:length])), 0)
    last = len(limit) - length
    said = text.rpartition(THOUGHT[1])[2].strip()
    if not whole[start:last].rstrip().endswith(said):
        raise DataError(f"the chat template changes an answer, {MERGED}")
    return start, last


def _ending(after: str, piece: str, tail: str, tokens: re.Pattern) -> int:
    """Characters behind an answer that end its turn: what ends the last one too, in whole tokens."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(after, piece, tail, strict=False))
    length = sum(1 for _ in same)
    cut = next((token for token in tokens.finditer(tail) if token.start() < length < token.end()), None)
    return cut.start() if cut else length


def _ended(text: str, spans: list[tuple[int, int]], end: str | None) -> Written:
    if end is None:
        raise DataError("neither chat template nor tokenizer has a token that ends an answer: no model would stop")
    if spans and spans[-1][1] == len(text):
        spans = [*spans[:-1], (spans[-1][0], len(text) + len(end))]
    return Written(text + end, spans)


def _check_prompts(messages: Sequence[dict], whole: str) -> None:
    for message in messages:
        if message["role"] != "assistant":
            texts = (part["text"].strip() for part in message["content"] if part["type"] == "text")
            if not all(text in whole for text in texts):
                raise DataError(f"the chat template does not write all of a turn of the {message['role']}'s")


def _check_reasoning(message: dict, learned: str) -> None:
    before = text_of(message).rpartition(THOUGHT[1])[0].partition(THOUGHT[0])
    thoughts = message.get("reasoning_content") or before[2] or before[0]
    if thoughts.strip() not in learned:
        raise DataError(
            "the chat template drops the reasoning of a turn that is learned: leave it out, or, of an earlier turn, "
            "set data.train_on: last"
        )
