"""Passes over one batch by a model and by moved copies of it: what lies below the first moved weight runs once.

Nothing here knows an architecture. A pass remembers what came out of the vision tower, and what went into the first
block (or the head) that moves; the passes after it take both from memory, and the blocks below let everything through.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.scoring.weights import language_modules

FEATURES = "get_image_features"
"""The method by which transformers' vision-language models encode images."""


@dataclass
class Memory:
    """What one pass over a batch leaves for the next."""

    features: Any = None
    """The vision tower's output."""
    entry: Tensor | None = None
    """(B, T, d): what goes into the first module that moves."""


class Sharing:
    """What a model and copies of it, moved in some weights, have in common."""

    def __init__(self, model: PreTrainedModel, moved: Collection[str]):
        weights = dict(model.named_parameters())
        own = {id(weights[name]) for name in moved}
        language = {id(weight) for module in language_modules(model) for weight in module.parameters(recurse=False)}
        self.images = own <= language and hasattr(model.base_model, FEATURES)
        self.below, self.entry = _entry(model, own)

    @contextlib.contextmanager
    def passing(self, model: PreTrainedModel, memory: Memory, images: Sequence[bytes] = ()) -> Iterator[None]:
        """A pass by the model or a moved copy of it: the first one fills the memory, all others use it.

        `images`: those of the batch, in order; the first pass encodes each distinct one once.
        """
        with contextlib.ExitStack() as stack:
            if self.images:
                encode = getattr(model.base_model, FEATURES)
                stack.enter_context(_instead(model.base_model, FEATURES, _once(encode, memory, images)))
            if self.entry:
                module, again = model.get_submodule(self.entry), memory.entry is not None
                hook = module.register_forward_pre_hook(_replay(memory) if again else _remember(memory))
                stack.callback(hook.remove)
                for path in self.below if again else ():
                    stack.enter_context(_instead(model.get_submodule(path), "forward", _through))
            yield


def _entry(model: PreTrainedModel, moved: set[int]) -> tuple[list[str], str | None]:
    """Paths of the decoder blocks below every moved weight, and of the module above them that is entered.

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


def _once(encode: Callable, memory: Memory, images: Sequence[bytes]) -> Callable:
    """The image encoder that works at its first call, on distinct images, and remembers."""

    def features(pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        if memory.features is None:
            memory.features = _encode_distinct(encode, images, pixel_values, *args, **kwargs)
        return memory.features

    return features


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
    chunks = pixels.split(sizes)
    if grid is not None:
        args, kwargs = args[1:], kwargs | {"image_grid_thw": grid[kept]}
    found = encode(torch.cat([chunks[at] for at in kept]), *args, **kwargs)
    places = [kept.index(first[image]) for image in images]
    found.pooler_output = [found.pooler_output[at] for at in places]
    if levels := getattr(found, "deepstack_features", None):
        found.deepstack_features = [[level[at] for at in places] for level in levels]
    return found


def _remember(memory: Memory) -> Callable:
    def hook(module: nn.Module, args: tuple) -> None:
        memory.entry = args[0].detach()

    return hook


def _replay(memory: Memory) -> Callable:
    def hook(module: nn.Module, args: tuple) -> tuple:
        return (memory.entry, *args[1:])

    return hook


def _through(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a block below does once its work is in memory."""
    return hidden_states


@contextlib.contextmanager
def _instead(owner: Any, name: str, function: Callable) -> Iterator[None]:
    """Have an object use another function under this name, for the time of a block."""
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
