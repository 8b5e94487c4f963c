"""Sizes of tiny models."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class TinySpec:
    """Sizes of a tiny model."""

    hidden: int
    layers: int
    feedforward: int
    vision_hidden: int
    vision_layers: int
    heads: int = 4


TARGET = TinySpec(hidden=128, layers=3, feedforward=256, vision_hidden=48, vision_layers=2)
"""About 0.7 million parameters."""
PROXY = TinySpec(hidden=96, layers=2, feedforward=256, vision_hidden=48, vision_layers=2)
"""About 0.4 million parameters."""


def sized(spec: TinySpec, hidden: int) -> TinySpec:
    """The same shape at another hidden size, a multiple of 32; feed-forward layers keep their ratio to it."""
    return dataclasses.replace(spec, hidden=hidden, feedforward=spec.feedforward * hidden // spec.hidden)
