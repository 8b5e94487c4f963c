"""Records and lines in which anything may stand, for properties."""

import copy
import json

from hypothesis import strategies as st
from pools import PNG, data_url

from ost.data import chat

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["image", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "role"]), inner),
    max_leaves=5,
)
ODD = JSON | st.sampled_from([10**400, -1, "\ud83d", "<image>", {"path": "a.png"}, [{"name": "relevance"}], [1]])
PLACES = [
    ("images",),
    ("images", 0),
    ("messages",),
    ("messages", 0),
    ("messages", 0, "role"),
    ("messages", 0, "loss"),
    ("messages", 1, "content"),
    ("messages", 1, "reasoning_content"),
    ("messages", 0, "content", 0),
    ("messages", 0, "content", 1, "text"),
    ("task",),
    ("id",),
    ("own_id",),
    ("learned",),
    ("ratings",),
    ("relevance_min",),
    ("relevance_ratings",),
    ("system",),
    ("image",),
    ("\ud83d",),
]
WHOLE = {"images": [data_url(PNG)], "messages": list(chat("q", "a")), "task": "t"}


def replaced(*changes: tuple[tuple, object]) -> bytes:
    """A good record in which other values stand at some places."""
    changed = copy.deepcopy(WHOLE)
    for place, value in changes:
        inner = changed
        try:
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = value
        except (TypeError, KeyError, IndexError, AttributeError):  # an earlier change has taken the place away
            continue
    return json.dumps(changed).encode()


def without(start: int, length: int) -> bytes:
    line = json.dumps(WHOLE).encode()
    return line[: start % len(line)] + line[start % len(line) + length :]


CHANGE = st.tuples(st.sampled_from(PLACES), ODD)
LINES = (
    st.lists(CHANGE, min_size=1, max_size=3).map(lambda changes: replaced(*changes))
    | st.builds(without, st.integers(0, 2**16), st.integers(0, 40))
    | st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))
)
"""Lines of a JSONL, without their end."""
