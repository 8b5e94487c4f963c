"""Turns as trainers' text dialects say them: images as marks, reasoning in the text; and what those cannot say."""

import re
from collections.abc import Sequence

MARK = "<image>"
"""Stands in the text where an image belongs, in every text dialect."""

MEDIA = r"<image>|<video>|<audio>"
"""What a text dialect's reader takes for media, wherever it stands."""

_SOMETHING = "\0"


def spoken(messages: Sequence[dict]) -> list[dict]:
    """The turns as a text dialect holds them, still in the chat form: reasoning in the text, neighbouring texts joined.

    A reasoning stands before its answer, as templates of thinking models write it.
    """
    return [_spoken(turn) for turn in messages]


def marked(turn: dict) -> str:
    """A spoken turn as one text, with a mark for each image."""
    return "".join(MARK if part["type"] == "image" else part["text"] for part in turn["content"])


def misread(messages: Sequence[dict], marks: re.Pattern) -> str | None:
    """The first piece of the turns' own text that a reader would take for a mark; None where there is none."""
    for turn in messages:
        # A mark may lie across two neighbouring parts, but not across an image.
        text = "".join(_SOMETHING if part["type"] == "image" else part["text"] for part in turn["content"])
        if found := marks.search(text) or marks.search(turn.get("reasoning_content") or ""):
            return found[0]
    return None


def alternates(messages: Sequence[dict]) -> bool:
    """Whether user and assistant take turns, after at most one system turn at the start."""
    roles = [turn["role"] for turn in messages]
    own = roles[1:] if roles[0] == "system" else roles
    return len(own) % 2 == 0 and own == ["user", "assistant"] * (len(own) // 2)


def _spoken(turn: dict) -> dict:
    parts: list[dict] = []
    thought = turn.get("reasoning_content")
    content = [{"type": "text", "text": f"<think>\n{thought}\n</think>\n\n"}] if thought else []
    for part in (*content, *turn["content"]):
        if part["type"] == "image":
            parts.append({"type": "image", "text": None})
        elif parts and parts[-1]["type"] == "text":
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
        elif part["text"]:
            parts.append({"type": "text", "text": part["text"]})
    said = {"role": turn["role"], "content": parts or [{"type": "text", "text": ""}]}
    return said | ({"loss": False} if turn.get("loss") is False else {})
