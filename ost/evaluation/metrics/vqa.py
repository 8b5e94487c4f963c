"""The metric `vqa`: how many of ten people gave the answer."""

import re
from collections.abc import Sequence

AGREE = 3
"""People whose answer it is, from which on it counts in full."""

_NUMBERS = {
    "none": 0,
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
}
_NUMBERS |= {"nine": 9, "ten": 10}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTED = """
    ain't aren't can't couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't isn't mightn't
    mightn't've mustn't needn't oughtn't shan't shouldn't shouldn't've wasn't weren't won't wouldn't wouldn't've
    could've i've might've must've not've should've they've we've what've who've would've you've
    he'd he'd've i'd've it'd it'd've she'd've someone'd there'd there'd've they'd they'd've we'd've where'd who'd
    who'd've you'd you'd've how'd how'll it'll somebody'll someone'll something'll they'll what'll who'll why'll
    y'all y'all'll you'll he's how's let's somebody's someone's something's that's there's what's when's where's
    who's i'm there're they're what're why're you're ma'am o'clock 'twas
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
"""A contraction without its apostrophes → with them; not those that would be a word of their own, such as "were"."""
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"[0-9],[0-9]")
_PERIOD = re.compile(r"\.(?![0-9])")


def vqa(answer: str, references: Sequence[str]) -> float:
    """VQA v2's accuracy: min(people who gave this answer / 3, 1), averaged over all but one of the people in turn.

    With the evaluation's own normalisation of both (see `normal_vqa`): https://visualqa.org/evaluation.html,
    arXiv:1505.00468. Ten references give 0, 0.3, 0.6, 0.9 or 1. Where there are fewer than four, all others agreeing
    is enough; of one, being equal.
    """
    said = normal_vqa(answer)
    given = [normal_vqa(reference) == said for reference in references]
    if len(given) == 1:
        return float(given[0])
    enough, total = min(AGREE, len(given) - 1), sum(given)
    return sum(min((total - own) / enough, 1.0) for own in given) / len(given)


def normal_vqa(text: str) -> str:
    """A text in lower case without articles, with digits for number words, apostrophes in contractions, and without
    punctuation: a mark beside a space goes, and so do all where a number has commas; other marks become spaces."""
    flat = " ".join(text.split())
    grouped, bare = bool(_GROUPED.search(flat)), flat
    for mark in _MARKS:
        beside = f"{mark} " in flat or f" {mark}" in flat
        bare = bare.replace(mark, "" if beside or grouped else " ")
    words = (str(_NUMBERS.get(word, word)) for word in _PERIOD.sub("", bare).lower().replace("’", "'").split())
    return " ".join(_CONTRACTIONS.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)
