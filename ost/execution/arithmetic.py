"""Arithmetic: which weights are held in bf16, and which modules compute in fp32 all the same."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.types import Arithmetic


def computing(device: torch.device, arithmetic: Arithmetic) -> torch.autocast:
    """The context of a pass in an arithmetic."""
    return torch.autocast(device.type, torch.bfloat16, enabled=arithmetic != "fp32")


def lowered(model: PreTrainedModel, moved: Mapping[str, Tensor], arithmetic: Arithmetic) -> PreTrainedModel:
    """A model with the weights that do not move held in bf16; those that move are the very same tensors, in fp32.

    In `mixed` arithmetic the modules whose weights all move compute in fp32 as well, so that a small move is not lost
    to rounding. In `fp32` it is the model itself.
    """
    if arithmetic == "fp32":
        return model
    own = {id(weight) for weight in moved.values()}
    held: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for weight in model.parameters():
        low = weight.is_floating_point() and id(weight) not in own
        held[id(weight)] = nn.Parameter(weight.detach().bfloat16(), weight.requires_grad) if low else weight
    found = copy.deepcopy(model, held)
    if arithmetic == "mixed":
        for module in _wholly_moved(found, own):
            precise = _InFp32()
            module.register_forward_pre_hook(precise.enter, with_kwargs=True)
            module.register_forward_hook(precise.leave, always_call=True)
    return found


def _wholly_moved(module: nn.Module, moved: set[int]) -> Iterator[nn.Module]:
    """The largest modules all of whose weights move."""
    weights = [id(weight) for weight in module.parameters()]
    if weights and moved.issuperset(weights):
        yield module
        return
    for child in module.children():
        yield from _wholly_moved(child, moved)


class _InFp32:
    """A pair of hooks between which a module computes in fp32, whatever is around it."""

    def __init__(self) -> None:
        self._entered: list[torch.autocast] = []

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before the module: no autocast, and its inputs in fp32."""
        context = torch.autocast(next(module.parameters()).device.type, enabled=False)
        context.__enter__()
        self._entered.append(context)
        return _in_fp32(args), _in_fp32(kwargs)

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Behind the module, also where it failed."""
        self._entered.pop().__exit__(None, None, None)


def _in_fp32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return {name: _in_fp32(one) for name, one in value.items()}
    return type(value)(map(_in_fp32, value)) if type(value) in (list, tuple) else value
