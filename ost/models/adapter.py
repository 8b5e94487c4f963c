"""LoRA adapters (PEFT): a proxy that is warmed up by a few weights beside its frozen ones."""

import json
import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ost.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_adapter(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Freeze a model and put a fresh adapter of a rank on all its linear layers but the head, in place.

    The scale is alpha / rank = 2; the same seed gives the same adapter. Only the adapter's weights are trainable then.
    """
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(model, config)


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether the model carries an adapter."""
    return hasattr(model, "peft_config")


def save_adapter(model: PreTrainedModel, folder: Path, final: Path) -> None:
    """Write the adapter alone into `folder`, which will be renamed to `final`, with the way from there to its base.

    Raises ModelError where the base was never saved.
    """
    if not model.name_or_path:
        raise ModelError("an adapter is saved beside its base: save the base, and load it, before adding the adapter")
    folder.mkdir()
    save_file(
        {name: weight.contiguous() for name, weight in get_peft_model_state_dict(model).items()}, folder / WEIGHTS
    )
    model.config.save_pretrained(folder)
    (config,) = model.peft_config.values()
    base = model.name_or_path
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    settings["base_model_name_or_path"] = os.path.relpath(base, final) if Path(base).is_dir() else base
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def base_of(name: str | Path) -> str | Path | None:
    """Name or folder of the base that a folder's adapter was trained on; None for a checkpoint of whole weights.

    Raises ModelError where the base is not to be found.
    """
    file = Path(name) / CONFIG
    if not file.is_file():
        return None
    base = json.loads(file.read_text())["base_model_name_or_path"]
    if not base.startswith((".", "/")):
        return base
    folder = (Path(name) / base).resolve()
    if not folder.is_dir():
        raise ModelError(f"{name} is a LoRA adapter on {base}, and there is no folder {folder}: put its base there")
    return folder


def load_adapter(model: PreTrainedModel, name: str | Path) -> None:
    """Put the adapter of a folder on its base, in place; only the adapter's weights are trainable then."""
    _inject(model, LoraConfig.from_pretrained(str(name)))
    set_peft_model_state_dict(model, load_file(Path(name) / WEIGHTS))


def _inject(model: PreTrainedModel, config: LoraConfig) -> None:
    config.inference_mode = False
    inject_adapter_in_model(config, model)
    for path, weight in model.named_parameters():
        weight.requires_grad_("lora_" in path)
