"""The metric `choice`: the letter of an option, in any dress."""

import re

from ost.evaluation.metrics.text import exact

LETTERS = "A-J"
_DRESS = r"[\s*_`'\"$(\[{<]{0,6}"
"""What may stand between a lead and its letter."""

_BARE = re.compile(rf"[\s*_`'\"$(\[{{<]*(?:option\s+|choice\s+)?([{LETTERS}])[\s*_`'\"$)\]}}>.,:;!]*", re.IGNORECASE)
"""Nothing but a letter: B, (B), b., **B**, option B."""
_BOXED = re.compile(rf"\\boxed\s?\{{\s?(?:\\text(?:bf)?\s?\{{)?\s?\(?([{LETTERS}])\b", re.IGNORECASE)
_ARTICLE = r"(?!\s+(?!(?:because|since|as|for|which|due|or|and)\b)[a-z])"
"""Not behind A or I where a sentence goes on: "the answer is a dog"."""
_LEAD = r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)\b[\s*_]{0,3}"
_IS = r"(?:is|:|=)[\s*_:]{0,4}"
_CLOSED = r"[*_`'\"$)\]}]{0,4}"
"""What may stand between a letter and the end of its sentence."""
_LED = re.compile(
    rf"{_LEAD}(?:is|are|:|=|would be|should be|must be)[\s*_:]{{0,4}}"
    rf"(?:option\s|choice\s|letter\s)?{_DRESS}(?:([B-HJ])|([AI]){_ARTICLE})(?![\w'’])|"
    rf"{_LEAD}{_IS}(?:[(\[]([a-j])[)\]]|{_DRESS}(?:([a-j]){_CLOSED}\.[*_`'\"]{{0,3}}(?!\S)|([b-hj]){_CLOSED}\s*\Z))|"
    rf"{_LEAD}(?:is\s?)?[:=]{_DRESS}([ai]){_CLOSED}\s*\Z"
)
"""The answer is B. A small letter is one where its sentence ends: "a" and "i" may be words that a limit cut off from
the next, so they need a full stop, or a colon before them."""
_HEAD = re.compile(
    rf"\s*[*_`'\"]{{0,3}}[(\[]?([{LETTERS}{LETTERS.lower()}])"
    r"(?:[)\]]|[*_]{0,3}[.):](?!\w)|\s-\s|\s?\n)(?!\s?(?:or\b|and\b|[,/&]))"
)
"""A letter with the option's text behind it: B) cat, B. cat, (b) cat."""
_BRACKETED = re.compile(rf"[(\[]([{LETTERS}])[)\]]")
_ALONE = re.compile(rf"(?<![\w'’.-])(?:([B-HJ])|([AI]){_ARTICLE})(?![\w'’+#-]|\.\w)")


def choice(answer: str, reference: str) -> bool:
    """Whether answer and reference name the same option; an answer without a letter, or with several, is wrong.

    Right is also what is the reference itself: "A red" where that is "A. red", though it might go on as "A red car".

    The ways in which models write the letter are those that MMMU's evaluation looks for (arXiv:2311.16502,
    `parse_multi_choice_response`); but nothing is drawn at random where there is none.
    """
    head = _HEAD.match(reference)
    if exact(answer, f"{head[1]} {reference[head.end() :]}" if head else reference):
        return True
    said = letter_of(answer)
    return said is not None and said == letter_of(reference)


def letter_of(text: str) -> str | None:
    r"""The letter, A to J, of the option that a text names; None where it names none, or more than one.

    The first that there is of: nothing but a letter; the last \boxed{B}; the last "answer is B"; a letter before the
    text of its option, unless other lines have others; the only letter in brackets; the only capital that stands alone.
    """
    text = " ".join(text.strip().split(" "))
    if found := _BARE.fullmatch(text):
        return found[1].upper()
    for led in (_BOXED, _LED):
        if every := [next(filter(None, found.groups())) for found in led.finditer(text)]:
            return every[-1].upper()
    if found := _HEAD.match(text):
        alike = str.isupper if found[1].isupper() else str.islower
        heads = {head[1] for line in text.splitlines(keepends=True) if (head := _HEAD.match(line)) and alike(head[1])}
        return found[1].upper() if len(heads) < 2 else None
    for apart in (_BRACKETED, _ALONE):
        letters = {next(filter(None, found.groups())) for found in apart.finditer(text)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None
