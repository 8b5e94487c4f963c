"""The metric `choice`: the letter of an option, in any dress."""

import re

LETTERS = "A-J"
_DRESS = r"[\s*_`'\"$(\[{<]{0,6}"
"""What may stand between a lead and its letter."""

_BARE = re.compile(rf"[\s*_`'\"$(\[{{<]*(?:option\s+|choice\s+)?([{LETTERS}])[\s*_`'\"$)\]}}>.,:;!]*", re.IGNORECASE)
"""Nothing but a letter: B, (B), b., **B**, option B."""
_BOXED = re.compile(rf"\\boxed\s?\{{\s?(?:\\text(?:bf)?\s?\{{)?\s?\(?([{LETTERS}])\b", re.IGNORECASE)
_ARTICLE = r"(?!\s+(?!(?:because|since|as|for|which|due|or|and)\b)[a-z])"
"""Not behind A or I where a sentence goes on: "the answer is a dog"."""
_LED = re.compile(
    rf"\b(?:answer|option|choice)\b[\s*_]{{0,3}}(?:is|are|:|=|would be|should be|must be)[\s*_:]{{0,4}}"
    rf"(?:option\s|choice\s|letter\s)?{_DRESS}(?:([B-HJ])|([AI]){_ARTICLE})(?![\w'’])|"
    rf"\b(?:answer|option|choice)\b[\s*_]{{0,3}}(?:is|:|=)[\s*_:]{{0,4}}[(\[]([{LETTERS.lower()}])[)\]]",
)
_HEAD = re.compile(
    rf"\s*[*_`'\"]{{0,3}}[(\[]?([{LETTERS}{LETTERS.lower()}])"
    r"(?:[)\]]|[*_]{0,3}[.):](?!\w)|\s-\s|\s?\n)(?!\s?(?:or\b|and\b|[,/&]))"
)
"""A letter with the option's text behind it: B) cat, B. cat, (b) cat."""
_BRACKETED = re.compile(rf"[(\[]([{LETTERS}])[)\]]")
_ALONE = re.compile(rf"(?<![\w'’.-])(?:([B-HJ])|([AI]){_ARTICLE})(?![\w'’+#-]|\.\w)")


def choice(answer: str, reference: str) -> bool:
    """Whether answer and reference name the same option; an answer without a letter, or with several, is wrong.

    The ways in which models write the letter are those that MMMU's evaluation looks for (arXiv:2311.16502,
    `parse_multi_choice_response`); but nothing is drawn at random where there is none.
    """
    said = letter_of(answer)
    return said is not None and said == letter_of(reference)


def letter_of(text: str) -> str | None:
    r"""The letter, A to J, of the option that a text names; None where it names none, or more than one.

    The first that there is of: nothing but a letter; the last \boxed{B}; the last "answer is B"; a letter before the
    text of its option; the only letter in brackets; the only capital that stands alone.
    """
    text = " ".join(text.strip().split(" "))
    if found := _BARE.fullmatch(text):
        return found[1].upper()
    for led in (_BOXED, _LED):
        if every := [next(filter(None, found.groups())) for found in led.finditer(text)]:
            return every[-1].upper()
    if found := _HEAD.match(text):
        return found[1].upper()
    for apart in (_BRACKETED, _ALONE):
        letters = {next(filter(None, found.groups())) for found in apart.finditer(text)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None
