"""What a sample's answer counts as: one reference, or several."""

import json


def references_of(text: str) -> tuple[str, ...]:
    """The references that a benchmark's answer holds: those of a JSON list of texts, else the text itself.

    A list may be of texts, `["yes", "yes", "no"]`, or of VQA's annotations, `[{"answer": "yes"}, …]`.
    """
    if text.lstrip()[:1] != "[":
        return (text,)
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return (text,)
    found = [one.get("answer") if isinstance(one, dict) else one for one in listed]
    return tuple(found) if found and all(isinstance(one, str) for one in found) else (text,)
