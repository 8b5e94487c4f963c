"""The metric `auto`: which of the others a task's references ask for."""

import re
from collections.abc import Callable, Sequence
from statistics import median

from ost.evaluation.metrics.number import quantity
from ost.evaluation.metrics.text import plain_number

NEARLY_ALL, SOME = 0.95, 0.1
"""Shares of a task's references."""
VOTES = 4
"""References of a sample from which on they are many people's answers, and not other spellings of one."""
SHORT = 60
"""Characters of the median reference up to which an answer is a name or a phrase, and not free text."""

_LETTER = re.compile(r"\s*(?:[(\[]?[A-Ja-j][)\]]|[A-J])[.:]?\s*")
_SMALL = re.compile(r"\s*[a-j]\s*")
_OPTION = re.compile(r"\s*(?:[(\[]?[A-Ja-j][)\]]|[A-Ja-j][.:](?=\s))\s*\S.*", re.DOTALL)
"""A letter with the option's text behind it: D. red, (B) a cat, b) blue."""
_LATEX = re.compile(r"\\[A-Za-z]{2}|\\\(|\^\{|\A\s*\$[^$]{1,200}\$[\s.]*\Z")


def choose(references: Sequence[Sequence[str]]) -> str:
    """The name of the metric for a task, from the references of all of its samples. The first that holds of:

    `vqa`: half of the samples have four references or more. `choice`: nearly all name an option, see `_name_options`.
    `math`: half are LaTeX, or some are and nearly all others are numbers. `number`: half are numbers, and of these some
    have a fraction or a percent sign; counts, which have to be right, are not among them. `anls`: the median is longer
    than SHORT characters. Else `exact`.
    """
    if _share(references, lambda own: len(own) >= VOTES) >= 0.5:
        return "vqa"
    texts = [text for own in references for text in own]
    if _name_options(texts):
        return "choice"
    latex, numbers = _share(texts, _LATEX.search), [text for text in texts if quantity(text) is not None]
    if latex >= 0.5 or (latex >= SOME and latex + len(numbers) / len(texts) >= NEARLY_ALL):
        return "math"
    if len(numbers) >= 0.5 * len(texts) and _share(numbers, _is_measured) >= SOME:
        return "number"
    return "anls" if median(map(len, texts)) > SHORT else "exact"


def _name_options(texts: Sequence[str]) -> bool:
    """Whether nearly all texts are a letter from A to J, or such a letter with the text of its option behind it.

    With text there must be two different letters, for an abbreviation or a speaker's mark is always the same. A small
    letter without a mark may be the word "a"; it counts only where every text is a letter or an option.
    """
    if _share(texts, _LETTER.fullmatch) >= NEARLY_ALL:
        return True
    marked = [text for text in texts if _LETTER.fullmatch(text) or _OPTION.fullmatch(text)]
    small = [text for text in texts if _SMALL.fullmatch(text)]
    letters = {re.search(r"[a-j]", text.lower())[0] for text in (*marked, *small)}
    return len(letters) > 1 and (len(marked) >= NEARLY_ALL * len(texts) or len(marked) + len(small) == len(texts))


def _share(values: Sequence, holds: Callable) -> float:
    return sum(bool(holds(value)) for value in values) / max(1, len(values))


def _is_measured(text: str) -> bool:
    """Whether a number is one that is read off or measured, and no count."""
    whole = plain_number(text.strip().rstrip("."))
    return whole is None or "." in whole
