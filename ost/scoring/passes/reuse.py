"""Passes over one batch by a model and by moved copies of it: what lies below the first moved weight runs once.

Nothing here knows an architecture. The first pass caches what came out of the vision tower, and what went into the
first block (or the head) that moves; the passes after it take both from there, and the blocks below are skipped.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.scoring.passes.weights import language_modules

IMAGE_ENCODER = "get_image_features"
"""The method by which transformers' vision-language models encode images."""


@dataclass
class PassCache:
    """Activations of one batch that do not depend on the moved weights; empty until the first pass."""

    samples: Sequence[Sample] = ()
    """The batch's; the first pass encodes each of their distinct images once."""
    features: Any = None
    """The vision tower's output."""
    hidden: Tensor | None = None
    """(B, T, d): what goes into the first module that moves."""


class PassReuse:
    """Which parts of a model run once for a batch, whatever the values of some of its weights."""

    def __init__(self, model: PreTrainedModel, moved: Collection[str]):
        """`moved`: names of the weights whose values differ between the model and its copies."""
        weights = dict(model.named_parameters())
        own = {id(weights[name]) for name in moved}
        language = {id(weight) for module in language_modules(model) for weight in module.parameters(recurse=False)}
        self.images = own <= language and hasattr(model.base_model, IMAGE_ENCODER)
        self.fixed_blocks, self.first_moved = _split(model, own)

    @contextlib.contextmanager
    def cached(self, model: PreTrainedModel, cache: PassCache) -> Iterator[None]:
        """A pass by the model or a moved copy of it within the block fills the cache, or uses it where it is filled."""
        with contextlib.ExitStack() as stack:
            if self.images:
                encode = getattr(model.base_model, IMAGE_ENCODER)
                _override(stack, model.base_model, IMAGE_ENCODER, functools.partial(_features, encode, cache))
            if self.first_moved:
                filled = cache.hidden is not None
                module = model.get_submodule(self.first_moved)
                hook = functools.partial(_replay if filled else _store, cache)
                stack.callback(module.register_forward_pre_hook(hook).remove)
                for path in self.fixed_blocks if filled else ():
                    _override(stack, model.get_submodule(path), "forward", lambda hidden, *args, **kwargs: hidden)
            yield


def _split(model: PreTrainedModel, moved: set[int]) -> tuple[list[str], str | None]:
    """Paths of the decoder blocks below every moved weight, and of the module above them that is the first to move.

    Without such blocks, or where a weight outside of blocks, head and what lies between moves too: none.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    blocks = getattr(decoder, "layers", None)
    if blocks is None:
        return [], None
    children = list(decoder.children())
    after = [weight for part in children[children.index(blocks) + 1 :] for weight in part.parameters()]
    moving = [bool(moved & set(map(id, block.parameters()))) for block in blocks]
    first = moving.index(True) if any(moving) else len(blocks)
    reachable = {id(weight) for weight in (*blocks.parameters(), *head.parameters(), *after)}
    above_blocks = first == len(blocks) and moved & set(map(id, after))
    if first == 0 or above_blocks or not moved <= reachable:
        return [], None
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(block)] for block in blocks[:first]], paths[id(blocks[first] if first < len(blocks) else head)]


def _features(encode: Callable, cache: PassCache, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The vision tower's output, from the cache where it is there."""
    if cache.features is None:
        images = [image for sample in cache.samples for image in sample.images]
        cache.features = _encode_distinct(encode, images, pixel_values, *args, **kwargs)
    return cache.features


def _encode_distinct(encode: Callable, images: Sequence[bytes], pixels: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Encode each distinct image once, and deal its features to all places that carry it.

    Where an architecture lays its images out in another way than a row of pixels each, or patches by a grid, all are
    encoded.
    """
    first = {image: at for at, image in reversed(list(enumerate(images)))}
    kept = sorted(first.values())
    grid = args[0] if args else kwargs.get("image_grid_thw")
    sizes = [1] * len(pixels) if grid is None else grid.prod(dim=-1).tolist()
    others = [*args[1:], *(value for name, value in kwargs.items() if name != "image_grid_thw")]
    if len(kept) == len(images) or len(sizes) != len(images) or any(isinstance(other, Tensor) for other in others):
        return encode(pixels, *args, **kwargs)
    if grid is not None:
        args, kwargs = args[1:], kwargs | {"image_grid_thw": grid[kept]}
    by_image = pixels.split(sizes)
    found = encode(torch.cat([by_image[at] for at in kept]), *args, **kwargs)
    places = [kept.index(first[image]) for image in images]
    found.pooler_output = [found.pooler_output[at] for at in places]
    if levels := getattr(found, "deepstack_features", None):
        found.deepstack_features = [[level[at] for at in places] for level in levels]
    return found


def _store(cache: PassCache, module: nn.Module, args: tuple) -> None:
    """A hook that keeps what goes into its module."""
    cache.hidden = args[0].detach()


def _replay(cache: PassCache, module: nn.Module, args: tuple) -> tuple:
    """A hook that puts what is cached in place of its module's input."""
    return (cache.hidden, *args[1:])


def _override(stack: contextlib.ExitStack, owner: Any, name: str, function: Callable) -> None:
    """Have an object use another function under this name until the stack is closed."""
    setattr(owner, name, function)
    stack.callback(delattr, owner, name)
