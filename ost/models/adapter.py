"""LoRA adapters: a proxy that is warmed up by a few weights beside its frozen ones.

PEFT, which takes seconds to load, is loaded where an adapter is.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ost.errors import ModelError
from ost.models.parts import language_modules, text_decoder

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EXPERTS = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3", "gate", "router")
"""Names of an expert's parts, and of what chooses among experts; neither is adapted."""
DEFAULT = "default"
"""How PEFT calls an adapter that nobody has named."""
PREFIX = "base_model.model."
"""What PEFT's own loader expects before each name: without it, it would start a fresh adapter and only warn."""


def add_adapter(model: PreTrainedModel, rank: int, seed: int, layers: Literal["language", "all"] = "all") -> None:
    """Freeze a model and put a fresh adapter of a rank on all its linear layers but the head, in place.

    `language`: on those of the text decoder alone. The scale is alpha / rank = 2; the same seed gives the same adapter.
    Only the adapter's weights are trainable then.
    Raises ModelError where the model carries an adapter already.
    """
    if has_adapter(model):
        raise ModelError("the model carries an adapter already: set `warmup.lora_rank: 0` to train that one on")
    from peft import LoraConfig

    wanted = set(_linear_layers(model, layers))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_targets(model, wanted))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(model, config)
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    if adapted != wanted:
        raise ModelError(
            f"PEFT adapts {len(adapted ^ wanted)} other layers of {type(model).__name__} than its linear ones, such as "
            f"{min(adapted ^ wanted)}: train all weights, or by a trainer of your own"
        )


def freeze_but_language(model: PreTrainedModel) -> None:
    """Let the text decoder, the input embedding and the output head alone be trained, in place."""
    language = {id(weight) for module in language_modules(model) for weight in module.parameters(recurse=False)}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in language)


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether the model carries an adapter."""
    return hasattr(model, "peft_config")


def save_adapter(model: PreTrainedModel, folder: Path, final: Path) -> None:
    """Write the adapter alone into `folder`, which will be renamed to `final`, with the way from there to its base.

    Raises ModelError where the base was never saved.
    """
    if not model.name_or_path:
        raise ModelError("an adapter is saved beside its base: save the base, and load it, before adding the adapter")
    from peft import get_peft_model_state_dict

    folder.mkdir()
    weights = get_peft_model_state_dict(model).items()
    save_file({PREFIX + name: weight.contiguous() for name, weight in weights}, folder / WEIGHTS)
    model.config.save_pretrained(folder)
    (config,) = model.peft_config.values()
    base = model.name_or_path
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    settings["base_model_name_or_path"] = os.path.relpath(base, final) if Path(base).is_dir() else base
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def base_of(name: str | Path) -> str | Path | None:
    """Name or folder of the base that a folder's adapter was trained on; None for a checkpoint of whole weights.

    Raises ModelError where no base is named, or none lies where it should.
    """
    file = Path(name) / CONFIG
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise ModelError(f"{file} names no base: its `base_model_name_or_path` is a folder or a hub name")
    if not base.startswith((".", "/")):
        return base
    folder = (Path(name) / base).resolve()
    if not folder.is_dir():
        raise ModelError(f"{name} is a LoRA adapter on {base}, and there is no folder {folder}: put its base there")
    return folder


def load_adapter(model: PreTrainedModel, name: str | Path) -> None:
    """Put the adapter of a folder on its base, in place; only the adapter's weights are trainable then.

    Raises ModelError where the weights are not those of such an adapter on this base.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    _inject(model, LoraConfig.from_pretrained(str(name)))
    weights = load_file(Path(name) / WEIGHTS)
    if not _loaded_as_named(model, weights):
        try:
            found = set_peft_model_state_dict(model, weights)
        except RuntimeError as error:
            raise ModelError(f"the adapter {name} does not fit its base, or its own {CONFIG}: {error}") from error
        if wrong := sorted({*found.unexpected_keys, *(key for key in found.missing_keys if "lora_" in key)}):
            # PEFT would leave what is missing as a fresh adapter has it, and drop what it does not know.
            raise ModelError(
                f"the adapter {name} lacks, or has beyond its base, {len(wrong)} weight(s), such as {wrong[0]}"
            )


@torch.no_grad()
def _loaded_as_named(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> bool:
    """Load the weights of an adapter by their names alone, if those are just the model's.

    PEFT renames what it loads by the rules for a family's whole checkpoints, and finds no adapter of some families.
    """
    own = {
        PREFIX + name.replace(f".{DEFAULT}.", "."): weight
        for name, weight in model.named_parameters()
        if "lora_" in name
    }
    if own.keys() != weights.keys() or any(own[name].shape != weight.shape for name, weight in weights.items()):
        return False
    for name, weight in weights.items():
        own[name].copy_(weight)
    return True


def _targets(model: PreTrainedModel, wanted: set[str]) -> list[str] | str:
    """What tells PEFT these linear layers: last parts of their names, else a pattern, else whole names.

    PEFT's own `all-linear` also takes what is called like one of them, be it a block of another part. Of a model with
    fused experts it keeps the last parts of a pattern alone, and takes the layers called like a part of an expert for
    the experts: there whole names are given, and no such layer is adapted.
    """
    modules = dict(model.named_modules())
    if _has_experts(model):
        return sorted(wanted)
    last = sorted({name.rpartition(".")[2] for name in wanted})
    if {name for name in modules if name.rpartition(".")[2] in last} == wanted:
        return last
    path = next(name for name, module in modules.items() if module is text_decoder(model))
    pattern = rf"{re.escape(path)}\..*\.({'|'.join(map(re.escape, last))})"
    if path and {name for name in modules if re.fullmatch(pattern, name)} == wanted:
        return pattern
    return sorted(wanted)


def _linear_layers(model: PreTrainedModel, layers: str) -> list[str]:
    """Names of the linear layers that an adapter goes beside."""
    head = model.get_output_embeddings()
    inner = set((text_decoder(model) if layers == "language" else model).modules())
    left_out = EXPERTS if _has_experts(model) else ()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and module in inner
        and name.rpartition(".")[2] not in left_out
    ]


def _has_experts(model: PreTrainedModel) -> bool:
    """Whether a model holds experts stacked in one weight."""
    return any(weight.ndim == 3 and "expert" in name for name, weight in model.named_parameters())


def _inject(model: PreTrainedModel, config: "LoraConfig") -> None:
    from peft import inject_adapter_in_model

    config.inference_mode = False
    inject_adapter_in_model(config, model)
    for path, weight in model.named_parameters():
        weight.requires_grad_("lora_" in path)
