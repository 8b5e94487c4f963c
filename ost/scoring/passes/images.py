"""Each distinct image of a batch encoded once, by a vision tower of any family."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ost.data import Sample


def encode_distinct(encode: Callable, samples: Sequence[Sample], *args: Any, **kwargs: Any) -> Any:
    """What `encode(pixels, …)` gives, with each distinct image encoded once and dealt to all places that carry it.

    Where a family lays its images out otherwise than in a row of each tensor an image, or in patches by a grid, or
    gives its features otherwise than one by one, all are encoded.
    """
    images = [image for sample in samples for image in sample.images]
    first = {image: at for at, image in reversed(list(enumerate(images)))}
    kept = sorted(first.values())
    names = list(inspect.signature(encode).parameters)
    if len(kept) == len(images) or len(args) > len(names):
        return encode(*args, **kwargs)
    given = dict(zip([*names[: len(args)], *kwargs], [*args, *kwargs.values()], strict=True))
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    fewer = tensors and _kept(tensors, kept, len(images), alone=all(len(sample.images) == 1 for sample in samples))
    if fewer:
        given |= fewer
        values = list(given.values())
        found = encode(*values[: len(args)], **{name: given[name] for name in kwargs})
        if _deal(found, [kept.index(first[image]) for image in images], len(kept)):
            return found
    return encode(*args, **kwargs)


def _kept(tensors: dict[str, Tensor], kept: list[int], count: int, alone: bool) -> dict[str, Tensor]:
    """Of tensors that hold `count` images, those `kept`; none where they are not laid out so that it can be told.

    The first tensor has the pixels. `alone`: no sample has several images or none, so a row a sample is a row an image.
    """
    (pixels, patches), *others = tensors.items()
    if len(others) == 1 and "grid" in others[0][0]:
        name, grid = others[0]
        sizes = grid.prod(dim=-1).tolist()
        if len(sizes) != count or len(patches) != sum(sizes):
            return {}
        parts = patches.split(sizes)
        return {pixels: torch.cat([parts[at] for at in kept]), name: grid[kept]}
    if any(len(value) != count for value in tensors.values()) or (patches.dim() == 5 and not alone):
        return {}
    return {name: value[kept] for name, value in tensors.items()}


def _deal(found: Any, places: list[int], count: int) -> bool:
    """Put features of `count` images to their places, in place; whether they come one by one, so that this works."""
    pooled, levels = getattr(found, "pooler_output", None), getattr(found, "deepstack_features", None) or []
    if any(not isinstance(own, Tensor | tuple | list) or len(own) != count for own in (pooled, *levels)):
        return False
    found.pooler_output = _picked(pooled, places)
    if levels:
        found.deepstack_features = [_picked(level, places) for level in levels]
    return True


def _picked(features: Tensor | tuple | list, places: list[int]) -> Tensor | tuple | list:
    return features[places] if isinstance(features, Tensor) else type(features)(features[at] for at in places)
