"""The names that records use for what is read of them."""

from typing import Any

DIALECTS = (
    ("messages",),
    ("conversations",),
    ("texts",),
    ("prompt", "completion"),
    ("query", "response"),
    ("context", "answers"),
)
"""The fields that hold a record's turns: OpenAI's and TRL's; LLaVA's and ShareGPT's; the Cauldron's and FineVision's;
TRL's; ms-swift's; energon's. The first that a record has is read."""

TURNS = frozenset(name for dialect in DIALECTS for name in dialect)

UNSUPPORTED = (
    *("video", "videos", "audio", "audios"),
    *("tools", "tool_calls", "functions", "function_call", "loss_scale"),
)
"""Fields of a record, or of a message, that change what it means in a way that is not read; empty ones do not."""

IDS = ("id", "__key__", "uid", "question_id")

RATINGS = ("relevance", "image_correspondence", "visual_dependency", "formatting")
"""FineVision's (arXiv:2510.17269): `*_ratings`, from 1 to 5 or null for each of `texts`, and their minimum `*_min`."""

FIELDS = frozenset(
    (
        *TURNS,
        *UNSUPPORTED,
        *IDS,
        *("images", "image", "system", "history", "task"),
        *(f"{name}_{kind}" for name in RATINGS for kind in ("ratings", "min")),
        *("own_id", "ratings"),  # of our own shards
    )
)
"""All that is read of a record."""

TEXTS = frozenset(
    (
        *("content", "value", "text", "user", "assistant", "system", "txt"),
        *("prompt", "completion", "query", "response", "history", "context", "answers"),
    )
)
"""Names of fields that hold text, or a list of parts or of messages."""

NOT_LOADED = "(not loaded)"
"""Stands in a record for a column that is not read."""


def filled(value: Any) -> bool:
    """Whether a field says anything."""
    return value is not None and value != "" and value != [] and value != {}
