"""Passes over one batch by a model and by moved copies of it: what lies below the first moved weight runs once.

Nothing here knows an architecture. The first pass caches what came out of the vision tower, where the tokens stand, and
what went into the first block (or the head) that moves; the passes after it take all that from there, and the blocks
below are skipped. What runs before what is seen in a pass of a few tokens, and that the blocks can be skipped is tried
on them.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.data import Sample
from ost.errors import ModelError
from ost.models.parts import decoder_blocks, execution_order, language_modules, output_head, probe_text, recorded
from ost.scoring.passes.images import encode_distinct
from ost.scoring.passes.weights import weights_of

IMAGE_ENCODER = "get_image_features"
"""The method by which transformers' vision-language models encode images."""
POSITIONS = "compute_3d_position_ids"
"""The method by which those that place tokens in time, height and width do so, sample by sample, in Python."""


@dataclass
class PassCache:
    """Activations of one batch that do not depend on the moved weights; empty until the first pass."""

    samples: Sequence[Sample] = ()
    """The batch's; the first pass encodes each of their distinct images once."""
    features: Any = None
    """The vision tower's output."""
    positions: Tensor | None = None
    """Where the tokens stand, of a family that works it out from the inputs alone, whatever the weights are."""
    hidden: Tensor | None = None
    """(B, T, d): what goes into the first module that moves."""
    beside: dict[str, tuple] = field(default_factory=dict)
    """What a block below gives back beside its states, by its path, of a family whose blocks do."""


class PassReuse:
    """Which parts of a model run once for a batch, whatever the values of some of its weights."""

    def __init__(self, model: PreTrainedModel, moved: Collection[str]):
        """`moved`: names of the weights whose values differ between the model and its copies."""
        self._moved, own = frozenset(moved), _weights(model, moved)
        self.images = own <= weights_of(language_modules(model)) and hasattr(model.base_model, IMAGE_ENCODER)
        self.positions = hasattr(model.base_model, POSITIONS)
        self._features_are_fixed: bool | None = None
        self.fixed_blocks, self.first_moved = _split(model, own)
        if self.first_moved and not self._repeats(model):
            self.fixed_blocks, self.first_moved = [], None

    @contextlib.contextmanager
    def cached(self, model: PreTrainedModel, cache: PassCache) -> Iterator[None]:
        """A pass by the model or a moved copy of it within the block fills the cache, or uses it where it is filled."""
        with contextlib.ExitStack() as stack:
            own = model.base_model
            if self.images:
                encode = getattr(own, IMAGE_ENCODER)
                stack.enter_context(
                    _replaced(own, IMAGE_ENCODER, functools.partial(self._features, model, encode, cache))
                )
            if self.positions:
                stack.enter_context(
                    _replaced(own, POSITIONS, functools.partial(_positions, getattr(own, POSITIONS), cache))
                )
            if self.first_moved:
                filled, entry = cache.hidden is not None, _Entry(cache)
                module = model.get_submodule(self.first_moved)
                stack.callback(model.register_forward_pre_hook(entry.begin).remove)
                stack.callback(module.register_forward_pre_hook(entry, with_kwargs=True).remove)
                for path in self.fixed_blocks:
                    stack.callback((_skip if filled else _watch)(model, path, cache))
            yield

    def _features(
        self, model: PreTrainedModel, encode: Callable, cache: PassCache, /, *args: Any, **kwargs: Any
    ) -> Any:
        """The vision tower's output, from the cache where it is there; computed anew where it moves itself."""
        if self._features_are_fixed is None:
            with recorded(model) as ran:
                found = encode_distinct(encode, cache.samples, *args, **kwargs)
            self._features_are_fixed = not _weights(model, self._moved) & weights_of(ran)
            self.images = self._features_are_fixed
        elif cache.features is None:
            found = encode_distinct(encode, cache.samples, *args, **kwargs)
        else:
            return cache.features
        if self._features_are_fixed:
            cache.features = found
        return found

    @torch.no_grad()
    def _repeats(self, model: PreTrainedModel) -> bool:
        """Whether a pass without the blocks below gives what one with them does: some hand on more than their states.

        Such are caches of keys and values that later layers read, and blocks that run more than once.
        """
        cache, logits = PassCache(), []
        for _ in range(2):
            try:
                with self.cached(model, cache):
                    logits.append(model(**probe_text(model)).logits.float())
            except Exception:  # models of any family; what they raise is theirs to say
                return False
        spread = logits[0].std() + torch.finfo(torch.float32).tiny
        return cache.hidden is not None and bool((logits[0] - logits[1]).abs().max() < 1e-4 * spread)


def _positions(place: Callable, cache: PassCache, /, *args: Any, **kwargs: Any) -> Tensor | None:
    """Where the tokens stand, from the cache where it is there."""
    if cache.positions is None:
        cache.positions = place(*args, **kwargs)
    return cache.positions


@contextlib.contextmanager
def _replaced(owner: nn.Module, name: str, method: Callable) -> Iterator[None]:
    """Another method in the place of a model's own."""
    setattr(owner, name, method)
    try:
        yield
    finally:
        delattr(owner, name)


class _Entry:
    """A hook of the first module that moves: keeps what goes into it, or puts what was kept in its place.

    It acts once a pass of the model: a head, say, may be applied to parts of its input again.
    """

    def __init__(self, cache: PassCache):
        self._cache, self._filled, self._waits = cache, cache.hidden is not None, False

    def begin(self, model: nn.Module, args: tuple) -> None:
        """A hook of the model: a pass begins."""
        self._waits = True

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not self._waits:
            return None
        self._waits = False
        if not self._filled:
            self._cache.hidden = (args[0] if args else kwargs["hidden_states"]).detach()
            return None
        if args:
            return (self._cache.hidden, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._cache.hidden}


class _Skipped(nn.Module):
    """Stands in a block's place, and gives back what goes in, in the form in which the block gives it back."""

    def __init__(self, block: nn.Module, beside: tuple | None):
        super().__init__()
        self.__dict__["_block"], self._beside = block, beside

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_block"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple:
        """The states, and what was beside them when the block ran."""
        return hidden_states if self._beside is None else (hidden_states, *self._beside)


def _skip(model: nn.Module, path: str, cache: PassCache) -> Callable[[], None]:
    """Skip a block of a model; returns what puts it back."""
    parent, _, name = path.rpartition(".")
    owner, block = model.get_submodule(parent), model.get_submodule(path)
    setattr(owner, name, _Skipped(block, cache.beside.get(path)))
    return functools.partial(setattr, owner, name, block)


def _watch(model: nn.Module, path: str, cache: PassCache) -> Callable[[], None]:
    """Keep what a block gives back beside its states, where it does; returns what ends it."""

    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, tuple):
            cache.beside[path] = tuple(one.detach() if isinstance(one, Tensor) else one for one in output[1:])

    return model.get_submodule(path).register_forward_hook(hook).remove


def _weights(model: nn.Module, names: Collection[str]) -> set[int]:
    """Identities of a model's weights of these names."""
    known = dict(model.named_parameters())
    return {id(known[name]) for name in names}


def _split(model: PreTrainedModel, moved: set[int]) -> tuple[list[str], str | None]:
    """Paths of the decoder blocks below every moved weight, and of the block above them, or the head, that moves first.

    Without such blocks, or where a moved weight is used before that one begins, or nobody knows when: none.
    """
    try:
        blocks, head = decoder_blocks(model), output_head(model)
    except ModelError:
        return [], None
    if blocks is None:
        return [], None
    moving = [bool(moved & set(map(id, block.parameters()))) for block in blocks]
    first = moving.index(True) if any(moving) else len(blocks)
    entry, order = (blocks[first] if first < len(blocks) else head), execution_order(model)
    if first == 0 or entry not in order:
        return [], None
    start = order.index(entry)
    inside = [module for part in (*blocks[first:], head) for module in part.modules()]
    if moved & weights_of(order[:start]) or not moved <= weights_of([*order[start:], *inside]):
        return [], None
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(block)] for block in blocks[:first]], paths[id(entry)]
