"""What a subset holds, as far as a trainer's form depends on it; found before anything is written."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from ost.data.sample import is_learned
from ost.export.kept import Kept

MARGIN = 256
"""Tokens by which another template of the same conversation may be longer: a system prompt of its own, role words."""

EARLY = 1 << 20
"""Characters within which what all records hold should be seen; JSON needs six bytes for one at most, of 10 MB."""

Refusal = Callable[[Sequence[dict]], str | None]
"""Why a trainer could not take a sample's messages as they are meant; None where it can."""


@dataclass
class Survey:
    """What is known of the samples that will be written."""

    kept: Kept
    """They themselves."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Of those that the form cannot say: id → why."""
    counts: Counter = field(default_factory=Counter)
    """Samples with a `system` turn, with `reasoning`, with turns of the assistant that are `context` alone."""
    learns_all: bool = True
    """Whether every turn of the assistant is learned, in every sample."""
    learns_last: bool = True
    """Whether the last one is, and no other, in every sample."""

    first_image: str | None = None
    """Id of the first sample with an image."""
    texts_before: int = 0
    """Characters of the samples before it."""

    def lead(self) -> None:
        """Let the first sample with an image come first, where so much text stands before it that types are guessed."""
        if self.first_image and self.texts_before > EARLY:
            self.kept = self.kept.led_by(self.first_image)

    @property
    def samples(self) -> int:
        """How many will be written."""
        return len(self.kept)

    @property
    def images(self) -> int:
        """How many images they have, each counted as often as it is shown."""
        return pc.sum(pc.list_value_length(self.kept.facts["sizes"])).as_py() or 0

    @property
    def needed(self) -> int:
        """Tokens that suffice for the longest sample in a trainer with a template of its own."""
        return -(-(self.kept.longest + MARGIN) // 256) * 256

    @property
    def largest(self) -> int:
        """Pixels of the largest image; 0 without images."""
        return int(self.kept.pixels.max(initial=0))

    @property
    def all_named(self) -> bool:
        """Whether every record had an id of the user's own."""
        return not self.kept.facts["own_id"].null_count

    @property
    def has_tasks(self) -> bool:
        """Whether any sample names its kind of question."""
        return pc.any(pc.not_equal(self.kept.facts["task"], "")).as_py()


def survey(kept: Kept, refusal: Refusal) -> Survey:
    """Look at every kept sample's turns once."""
    found = Survey(kept)
    for name, messages in kept.turns():
        if why := refusal(messages):
            found.left_out[name] = why
            continue
        roles = [turn["role"] for turn in messages]
        learned = [at for at, turn in enumerate(messages) if is_learned(turn)]
        answers = roles.count("assistant")
        if found.first_image is None:
            parts = [part for turn in messages for part in turn["content"]]
            if any(part["type"] == "image" for part in parts):
                found.first_image = name
            else:
                found.texts_before += sum(len(part["text"]) for part in parts)
        found.learns_all &= len(learned) == answers
        found.learns_last &= learned == [len(messages) - 1]
        found.counts["system"] += "system" in roles
        found.counts["reasoning"] += any(turn.get("reasoning_content") for turn in messages)
        found.counts["context"] += len(learned) < answers
    if found.left_out:
        found.kept = kept.without(set(found.left_out))
    return found
