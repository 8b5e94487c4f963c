"""The weights that a simulated step moves, and how far each of them moves."""

import copy
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.errors import ModelError
from ost.models import Checkpoint
from ost.models.parts import decoder_blocks, execution_order, language_modules, output_head, text_decoder
from ost.types import Optimizer

DAMPING = 1e-2
"""What is added to √v̂, as a share of its root mean square: a weight that the warm-up hardly touched must not rule."""


def scored_weights(model: PreTrainedModel, layers: str = "all") -> dict[str, nn.Parameter]:
    """The trainable weights among `layers`, by name; tied ones once, under their first name.

    `all`; `language`: the text decoder and the output head; `last:N`: its last N blocks, what runs behind them, such as
    the last norm, and the head; `head`: the output head alone. A head that is tied to the input embedding moves both,
    unless it is `untied` first. Of a model that carries a LoRA adapter only the adapter is trainable, so only its
    weights are scored.

    Raises ModelError where nothing is left, where the model's blocks cannot be told, and for an adapter that has never
    been trained: with B = 0 its A has no gradient, and a ranking would be that of B's alone.
    """
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    chosen = trainable
    if layers != "all":
        own = weights_of(_among(model, layers))
        chosen = {name: weight for name, weight in trainable.items() if id(weight) in own}
    if not chosen:
        raise ModelError(
            f"score.layers is {layers!r}, and none of the {len(trainable)} trainable weights lies there: choose `all`, "
            "`language`, `last:N` or `head`; of a LoRA proxy only the adapter is trainable"
        )
    ups = [weight for name, weight in chosen.items() if "lora_B" in name]
    if ups and not any(bool(weight.any()) for weight in ups):
        raise ModelError("the proxy's LoRA adapter is fresh (B = 0), so half of it has no gradient: warm it up first")
    return chosen


def untied(proxy: Checkpoint, layers: str) -> Checkpoint:
    """The proxy to score with: for `last:N` and `head`, one whose output head shares no table with the embedding.

    A head that shares its table with the input embedding would move what lies below all blocks too, and nothing could
    be computed once. All other weights of the checkpoint returned are the very tensors of the one given.
    """
    model = proxy.model
    if layers in ("all", "language"):
        return proxy
    head, table = output_head(model), model.get_input_embeddings()
    if head.weight is not table.weight:
        return proxy
    own = moved_copy(model, ())
    path = next(path for path, module in model.named_modules() if module is head)
    name = next(name for name, weight in model.named_parameters() if weight is head.weight)
    own.get_output_embeddings().weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    moments = proxy.second_moment
    if moments and name in moments:
        moments = moments | {f"{path}.weight": moments[name]}
    return dataclasses.replace(proxy, model=own, second_moment=moments)


def moved_copy(model: PreTrainedModel, moved: Collection[str]) -> PreTrainedModel:
    """A copy of a model with weights of its own where they are to be moved; the others are the very same tensors."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return copy.deepcopy(model, {id(tensor): tensor for name, tensor in tensors.items() if name not in moved})


def weights_of(modules: Iterable[nn.Module]) -> set[int]:
    """Identities of the weights that modules hold themselves."""
    return {id(weight) for module in modules for weight in module.parameters(recurse=False)}


def preconditioner(proxy: Checkpoint, weights: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor] | None:
    """What multiplies a gradient to make the optimizer's step of it: nothing for SGD, for Adam r / (√v̂ + r / 100).

    v̂ is the second moment that the proxy's warm-up ended with, and r the root mean square of √v̂ over the scored
    weights: a typical factor is one, none is above 100, and utilities are in the unit of SGD's. Adam's momentum is
    left out: it is the same for every sample, so it says nothing about any. `auto` is Adam where there is a v̂.

    Raises ModelError where the proxy brings no second moment for a scored weight.
    """
    moments = proxy.second_moment or {}
    if optimizer == "sgd" or (optimizer == "auto" and not moments):
        return None
    if absent := [name for name in weights if name not in moments]:
        raise ModelError(
            f"score.optimizer is `adam`, but the proxy has no second moment for {len(absent)} weight(s), such as "
            f"{absent[0]}: warm it up with this version, or score with `sgd`"
        )
    own = {name: moments[name].to(weight.device, torch.float64) for name, weight in weights.items()}
    scale = (sum(moment.sum().item() for moment in own.values()) / sum(m.numel() for m in own.values())) ** 0.5
    factors = {name: scale / (moment.sqrt() + DAMPING * scale) for name, moment in own.items()}
    return {name: factor.to(weights[name].dtype) for name, factor in factors.items()}


@torch.no_grad()
def move(weights: Mapping[str, Tensor], origin: Mapping[str, Tensor], step: Mapping[str, Tensor], by: float) -> None:
    """Put each weight at origin + `by` × step, in place."""
    for name, weight in weights.items():
        torch.add(origin[name], step[name], alpha=by, out=weight)


def _among(model: PreTrainedModel, layers: str) -> Iterator[nn.Module]:
    """The modules that `layers` names, other than `all`."""
    yield from output_head(model).modules()
    if layers == "language":
        yield from language_modules(model)
    elif layers != "head":
        yield from _last(model, int(layers.removeprefix("last:")))


def _last(model: PreTrainedModel, count: int) -> Iterator[nn.Module]:
    """The decoder's last blocks, and what of it runs behind them, by the order of execution and not of registration."""
    blocks, order = decoder_blocks(model), execution_order(model)
    ran = [order.index(block) for block in (blocks or ()) if block in order]
    if not ran:
        raise ModelError(
            f"{type(model).__name__} has no list of decoder layers that a text passes: set score.layers to `language` "
            "or `all`"
        )
    within = {module for block in blocks for module in block.modules()}
    before = set(order[: max(ran)])
    for block in blocks[-count:]:
        yield from block.modules()
    behind = [module for module in order[max(ran) :] if module not in within | before]
    yield from (module for module in text_decoder(model).modules() if module in behind)
