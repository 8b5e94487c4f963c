"""Fewer tokens for an image: a processor's own setting for resolution, lowered until no image takes more than wanted.

Families call that setting by many names. What each does is found by trying: it is lowered step by step, and what images
of many shapes then take is measured with the processor itself.
"""

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PretrainedConfig
from transformers.processing_utils import ProcessorMixin

from ost.encoding import Encoder
from ost.encoding.measure import Size
from ost.errors import DataError, ModelError

COUNTS = ("max_patches", "max_image_tiles", "max_tiles", "max_num_tiles", "max_crops", "max_slice_nums")
"""Settings that say into how many tiles an image is cut at most, and what the least is called."""
TOKENS = ("max_image_tokens", "max_num_patches")
"""Settings that say how many tokens, or patches, a tile has at most."""
SOFT_TOKENS = (1120, 560, 280, 140, 70)
"""The only values of `max_soft_tokens` that Gemma 4 takes."""
SWITCHES = ("do_image_splitting", "crop_to_patches", "split_image", "slice_mode", "do_pan_and_scan")

MANY: tuple[Size, ...] = tuple(
    (max(1, round((area * ratio) ** 0.5)), max(1, round((area / ratio) ** 0.5)))
    for area in (16e6, 1.2e6, 2e5, 4e3)
    for ratio in np.geomspace(1 / 16, 16, 129)
)
"""Images that are tried where that takes no image: of so many pixels, up to 16 times as wide as high."""
FEW: tuple[Size, ...] = (
    *((1500, 1500), (2000, 1000), (1000, 2000), (2100, 700), (700, 2100), (2400, 400), (400, 2400)),
    *((1200, 900), (900, 1200), (640, 480), (480, 640), (200, 200)),
)
"""Images that are tried where each has to be made."""


@dataclass(frozen=True)
class Setting:
    """Values of a setting, from the one that it has downwards, and how one is set."""

    values: Sequence
    apply: Callable[[object], None]


def limit_image_tokens(processor: ProcessorMixin, most: int, config: PretrainedConfig | None = None) -> int:
    """Lower the resolution of a processor, in place, until no image takes more than `most` tokens.

    As much of it is kept as can be; the setting is saved with the processor. `config`: that of the model it feeds,
    where there is one; LLaVA-NeXT's kind keeps the setting there, too, and it is changed along. Returns how many tokens
    an image then takes at most, of shapes up to 16 times as wide as high. Raises ModelError, and changes nothing, where
    the processor has no such setting.
    """
    name = type(processor).__name__
    if not hasattr(processor, "image_processor"):
        raise ModelError(f"{name} takes no images: leave data.max_image_tokens out")
    taken = _most_tokens(processor)
    holders = [holder for holder in (processor.image_processor, config) if holder is not None]
    before = [dict(vars(holder)) for holder in holders]
    for setting in _settings(processor.image_processor, holders, most):
        if taken is not None and taken <= most:
            return taken
        taken = _lowered(processor, setting, most)
    if taken is not None and taken <= most:
        return taken
    for holder, attributes in zip(holders, before, strict=True):
        vars(holder).clear()
        vars(holder).update(attributes)
    raise ModelError(
        f"{name} has no setting that brings every image to {most} tokens; the fewest are {taken}: raise "
        "data.max_image_tokens, leave it out, or choose a model that takes images at any resolution"
    )


def _lowered(processor: ProcessorMixin, setting: Setting, most: int) -> int | None:
    """Lower a setting to its first value with which no image takes more than `most`, or to its least."""

    def tokens(at: int) -> int | None:
        setting.apply(setting.values[at])
        return _most_tokens(processor)

    def fits(at: int) -> bool:  # what refuses every image counts as too low
        return (found := tokens(at)) is None or found <= most

    at = bisect.bisect_left(range(len(setting.values) - 1), True, key=fits)
    while (found := tokens(at)) is None and at:
        at -= 1
    return found


def _most_tokens(processor: ProcessorMixin) -> int | None:
    """The most tokens that an image takes; None where the processor refuses images as it is set."""
    try:
        encoder = Encoder(processor)
        sizes = MANY if encoder.counts_by_arithmetic else FEW
        return max(encoder.image_tokens(sizes))
    except DataError:
        return None


def _settings(images: object, holders: Sequence[object], most: int) -> Iterator[Setting]:
    """The settings of an image processor that lower the tokens of an image, those that keep most of it first."""
    size = dict(getattr(images, "size", None) or {})
    if "longest_edge" in size and hasattr(images, "merge_size"):
        yield _pixels(images, size, "longest_edge", "shortest_edge", most)
    if "max_pixels" in size:
        yield _pixels(images, size, "max_pixels", "min_pixels", most)
    for name in COUNTS:
        if _is_count(own := getattr(images, name, None)):
            yield _attribute(images, name, range(own, 0, -1))
    if len(getattr(images, "image_grid_pinpoints", None) or ()) > 1:
        yield _grid(images, holders)
    if "longest_edge" in size and not hasattr(images, "merge_size"):
        yield _edge(images, size)
    for name in SWITCHES:
        if getattr(images, name, None) is True:
            yield _attribute(images, name, (True, False))
    for name in TOKENS:
        if _is_count(own := getattr(images, name, None)):
            yield _attribute(images, name, _falling(own, 1))
    if _is_count(own := getattr(images, "max_soft_tokens", None)):
        yield _attribute(images, "max_soft_tokens", [value for value in SOFT_TOKENS if value <= own])


def _pixels(images: object, size: dict, highest: str, lowest: str, most: int) -> Setting:
    """Pixels of an image; a token stands for so many of them that `most` tokens bound every image, however wide."""
    edge = getattr(images, "patch_size", None) or getattr(images, "spatial_factor", 1)
    token = (edge * getattr(images, "merge_size", 1)) ** 2
    frames = getattr(images, "temporal_patch_size", 1)  # some count an image as so many
    sure = [value for value in (most * token * frames, most * token) if value < size[highest]]
    values = [size[highest], *sure, *_falling((sure or [size[highest]])[-1], token)[1:]]
    return _bound(images, size, highest, lowest, values)


def _edge(images: object, size: dict) -> Setting:
    """The longest edge, in steps of a tile or a patch."""
    tile = dict(getattr(images, "max_image_size", None) or {}).get("longest_edge")
    patch = getattr(images, "patch_size", None)
    step = tile or (patch["height"] if isinstance(patch, dict) or hasattr(patch, "get") else patch) or 1
    values = [size["longest_edge"], *range((size["longest_edge"] - 1) // step * step, 0, -step)]
    return _bound(images, size, "longest_edge", "shortest_edge", values)


def _bound(images: object, size: dict, highest: str, lowest: str, values: Sequence[int]) -> Setting:
    """A bound of an image's size; the lower bound must not stay above it."""

    def apply(value: int) -> None:
        least = {lowest: min(value, size[lowest])} if lowest in size else {}
        images.size = type(images.size)(**size | {highest: value} | least)

    return Setting(values, apply)


def _grid(images: object, holders: Sequence[object]) -> Setting:
    """The grids of tiles that an image may be cut into, the largest left out first; a model must know the same."""
    grids = sorted(images.image_grid_pinpoints, key=lambda grid: (grid[0] * grid[1], grid))
    areas = sorted({height * width for height, width in grids}, reverse=True)
    kept = [[list(grid) for grid in grids if grid[0] * grid[1] <= area] for area in areas]

    def apply(value: list[list[int]]) -> None:
        for holder in holders:
            if hasattr(holder, "image_grid_pinpoints"):
                holder.image_grid_pinpoints = value

    return Setting(kept, apply)


def _attribute(images: object, name: str, values: Sequence) -> Setting:
    """An attribute of the image processor's own; the one that says the least must not stay above it."""
    least = name.replace("max_", "min_", 1)
    lowest = getattr(images, least, None)

    def apply(value: int) -> None:
        setattr(images, name, value)
        if _is_count(lowest):
            setattr(images, least, min(lowest, value))

    return Setting(list(values), apply)


def _falling(value: int, step: int) -> list[int]:
    """Whole steps, each about an eighth below the one before."""
    found = [value]
    while (following := found[-1] * 7 // 8 // step * step) >= step:
        found.append(following)
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
