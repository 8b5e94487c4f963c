"""Built-in worlds: problems whose right answers are known, with pools that a faulty teacher answered, and the tiny
models that learn from them. What the product is shown and tested on; nothing of the product needs them."""

import importlib

from ost.worlds.world import World

__all__ = ["WORLDS", "World", "world_of"]

WORLDS = {"handmath": "handmath", "easy-vqa": "easyvqa", "wordmath": "wordmath", "multi-turn": "multiturn"}
"""Name → file of this folder."""


def world_of(name: str) -> World:
    """The world of a name."""
    return importlib.import_module(f"{__name__}.{WORLDS[name]}")
