"""Parts of a model that scoring asks for, found by what `transformers` says and by what runs, not by a family."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.errors import ModelError
from ost.models.configs import family

PROBE = 6
"""Tokens of the text that is passed through a model to see what runs when."""


def output_head(model: PreTrainedModel) -> nn.Module:
    """The layer that makes logits of states; raises ModelError where the model names none."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{_named(model)} names no output head, so its answers' losses cannot be taken: choose a proxy of a family "
            "that writes text by one (get_output_embeddings of transformers)"
        )
    return head


def text_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part that makes states of tokens, without a head of its own; raises ModelError where the model names none."""
    decoder = model.get_decoder()
    while getattr(decoder, "get_output_embeddings", lambda: None)() is not None:
        inner = decoder.get_decoder()  # of a whole causal model that stands in another's place for a decoder
        inner = decoder.base_model if inner is decoder else inner
        decoder = None if inner is decoder else inner
    if not isinstance(decoder, PreTrainedModel):
        decoder = model.base_model if model.base_model is not model else None
    if decoder is None:
        raise ModelError(
            f"{_named(model)} names no text decoder: choose a proxy of a family that has one (get_decoder of "
            "transformers)"
        )
    return decoder


def language_modules(model: PreTrainedModel) -> set[nn.Module]:
    """Text decoder, input embedding and output head: the modules whose activations are (B, T, …), a row a sample."""
    parts = (text_decoder(model), model.get_input_embeddings(), output_head(model))
    return {module for part in parts for module in part.modules()}


def probe_text(model: PreTrainedModel) -> dict[str, Tensor]:
    """A few ordinary tokens, (1, PROBE): none that the configuration gives a meaning, such as an image's place."""
    meant = set(_token_ids(model.config.to_dict()))
    size = model.get_input_embeddings().weight.shape[0]
    plain = [token for token in range(size // 8, size) if token not in meant][:PROBE]
    ids = torch.tensor([plain], device=model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList | None:
    """The text decoder's blocks, bottom first; None where it has no list of them, or several."""
    decoder = text_decoder(model)
    lists = [part for part in decoder.children() if isinstance(part, nn.ModuleList)]
    named = getattr(decoder, "layers", None)
    return named if isinstance(named, nn.ModuleList) else lists[0] if len(lists) == 1 else None


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules of a model that run within the block, in the order in which they start, each as often as it does."""
    order: list[nn.Module] = []

    def hook(module: nn.Module, args: tuple) -> None:
        order.append(module)

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield order


@torch.no_grad()
def execution_order(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that a text passes, in the order in which they start; none where the model takes no text alone."""
    text = probe_text(model)
    with recorded(model) as order:
        try:
            model(**text)
        except Exception:  # models of any family; what they raise is theirs to say
            return []
    return order


def _token_ids(config: dict) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _token_ids(value)
        elif str(name).endswith(("_id", "_ids", "_index")):
            yield from [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, int)]


def _named(model: PreTrainedModel) -> str:
    return f"{type(model).__name__} (family {family(model.config)!r})"
