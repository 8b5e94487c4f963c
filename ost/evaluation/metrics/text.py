"""Metrics of whole texts: equal, contained, or alike."""

import re
import unicodedata

import numpy as np

_FINAL = ".!?,;:。！？，；："
"""Punctuation that says nothing at the end of an answer."""
_NUMBER = re.compile(r"([+-]?)((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?)(?:\.([0-9]+))?")
_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])")
"""A number with commas between its thousands, within a text."""
THRESHOLD = 0.5
"""τ of ANLS: from this distance on an answer scores nothing."""
LONGEST = 5_000
"""Characters of a text that ANLS looks at."""


def exact(answer: str, reference: str) -> bool:
    """Whether two texts are the same but for case, white space, final punctuation, and how a number is written.

    SQuAD's exact match (arXiv:1606.05250) less what it does to articles and inner punctuation, since "the who" is not
    "who", and "a-b" not "ab". 1,000 is 1000, and 7.0 is 7; 007 is not 7.
    """
    return normal(answer) == normal(reference)


def final(answer: str, reference: str) -> bool:
    """Exact match of what follows the last "=" of each: of a short chain of thought, its end."""
    return exact(answer.rpartition("=")[2], reference.rpartition("=")[2])


def contains(answer: str, reference: str) -> bool:
    """Whether the answer, which may say more, holds the reference as whole words, both as `exact` has them.

    A number is one word: 7 does not stand in 7.5, in −7 or in 1,007.
    """
    said, wanted = normal(answer), normal(reference)
    at = said.find(wanted) if wanted else -1
    while at >= 0:
        if _is_apart(said[:at][-2:], wanted, said[at + len(wanted) :][:2]):
            return True
        at = said.find(wanted, at + 1)
    return False


def anls(answer: str, reference: str) -> float:
    """Average normalised Levenshtein similarity at τ = 0.5: 1 − distance / length of the longer text, 0 from τ on.

    Case and outer white space do not count. DocVQA's metric; the formula is that of arXiv:1905.13648, section 5. Of a
    longer text the first LONGEST characters are looked at.
    """
    said, wanted = (text.strip().lower()[:LONGEST] for text in (answer, reference))
    longer = max(len(said), len(wanted))
    if longer == 0:
        return 1.0
    if abs(len(said) - len(wanted)) >= THRESHOLD * longer:  # at least so far apart
        return 0.0
    distance = levenshtein(said, wanted) / longer
    return 1.0 - distance if distance < THRESHOLD else 0.0


def normal(text: str) -> str:
    """A text as `exact` compares it; punctuation alone stays as it is."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    bare = folded.rstrip(_FINAL + " ") or folded
    return plain_number(bare) or _GROUPED.sub(lambda found: found[0].replace(",", ""), bare)


def plain_number(text: str) -> str | None:
    """A number without thousands commas, sign + and final zeros, such as 1000 for +1,000.0; None for other texts.

    One that begins with 0, as a code or a house number may, is none, but for 0 and 0.5.
    """
    found = _NUMBER.fullmatch(text.replace("−", "-"))
    if not found or not (found[2] or found[3]):
        return None
    whole, fraction = found[2].replace(",", "") or "0", (found[3] or "").rstrip("0")
    if len(whole) > 1 and whole[0] == "0":
        return None
    sign = "-" if found[1] == "-" and (whole, fraction) != ("0", "") else ""
    return sign + whole + (f".{fraction}" if fraction else "")


def levenshtein(one: str, other: str) -> int:
    """Fewest insertions, deletions and replacements of a character that make one text the other."""
    codes = np.array([ord(letter) for letter in other], dtype=np.int64)
    steps = np.arange(len(other) + 1)
    row = steps
    for letter in one:
        replaced = row[:-1] + (codes != ord(letter))
        best = np.concatenate([row[:1] + 1, np.minimum(row[1:] + 1, replaced)])
        row = np.minimum.accumulate(best - steps) + steps  # insertions
    return int(row[-1])


def _is_apart(before: str, words: str, behind: str) -> bool:
    """Whether words are not a part of a longer word or number; `before`, `behind`: the two characters on each side."""
    if _joins(before[-1:], words[0]) or _joins(words[-1], behind[:1]):
        return False
    if words[0].isdigit() and (re.fullmatch(r"\d[.,]", before) or re.fullmatch(r"(^|\W)[-−]", before)):
        return False
    return not (words[-1].isdigit() and re.fullmatch(r"[.,]\d", behind))


def _joins(left: str, right: str) -> bool:
    return all(one.isalnum() or one == "_" for one in (left, right)) and bool(left and right)
