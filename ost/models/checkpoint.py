"""Checkpoints: weights and processor, loaded and saved together; and whether proxy and target belong together."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.processing_utils import ProcessorMixin

from ost.errors import ModelError
from ost.models.adapter import base_of, has_adapter, load_adapter, save_adapter
from ost.models.processor import load_processor
from ost.store import publish

SECOND_MOMENT = "second_moment.safetensors"


@dataclass
class Checkpoint:
    """A model and the processor that feeds it."""

    model: PreTrainedModel
    processor: ProcessorMixin
    second_moment: dict[str, torch.Tensor] | None = None
    """Adam's bias-corrected second moment v̂ (fp32) of each trainable weight, by its name in `model.named_parameters()`,
    where the checkpoint's training left one; a loaded one lies on the CPU."""
    base: str | Path | None = None
    """The checkpoint that this one was trained from, a folder or a hub name, where that is known."""

    @property
    def tokenizer(self):
        """The processor's tokenizer (the processor itself for a text-only model)."""
        return getattr(self.processor, "tokenizer", self.processor)

    def save(self, path: str | Path) -> None:
        """Publish weights (safetensors) and processor as one folder; the same bytes for the same checkpoint.

        Of a model with a LoRA adapter the adapter alone is saved, with the way to its base.
        """
        if backend := getattr(self.tokenizer, "backend_tokenizer", None):
            backend.no_padding()  # else how the last batch was padded would be saved along
        with publish(path) as part:
            if has_adapter(self.model):
                save_adapter(self.model, part, Path(path))
            else:
                self.model.save_pretrained(part)
            self.processor.save_pretrained(part)
            if self.second_moment is not None:
                moments = {name: moment.detach().cpu().contiguous() for name, moment in self.second_moment.items()}
                save_file(moments, part / SECOND_MOMENT)


def load_checkpoint(name: str | Path, device: torch.device | str = "cpu", base: str | Path | None = None) -> Checkpoint:
    """Load a hub name or a local folder in fp32, safetensors only and no code from the checkpoint.

    An adapter's folder gives base and adapter as one model. `base`: what the checkpoint was trained from, for a proxy
    that is scored with. Raises ModelError where nothing loadable is found.
    """
    config, beneath = load_config(name), base_of(name)
    try:
        model = _load_weights(beneath or name, config)
        if beneath:
            load_adapter(model, name)
        moments = _load_moments(name)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot load the weights of {name} (safetensors only): {error}") from error
    return Checkpoint(model.to(device).eval(), load_processor(name, config), moments, base)


def checkpoint_folders(name: str | Path) -> list[Path]:
    """The folders that a local checkpoint is read from: its own, and that of its adapter's base."""
    base = base_of(name)
    return [Path(name), *([Path(base)] if base and Path(base).is_dir() else [])]


def _load_weights(name: str | Path, config: PretrainedConfig) -> PreTrainedModel:
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model, info = auto.from_pretrained(name, dtype=torch.float32, use_safetensors=True, output_loading_info=True)
    if absent := sorted(info["missing_keys"]):
        # transformers would fill them with random numbers.
        raise ModelError(f"{name} lacks {len(absent)} of the model's weights, such as {absent[0]}; fetch it anew")
    return model


def _load_moments(name: str | Path) -> dict[str, torch.Tensor] | None:
    file = Path(name) / SECOND_MOMENT
    return load_file(file) if file.is_file() else None


def load_config(name: str | Path) -> PretrainedConfig:
    """Configuration of a checkpoint; raises ModelError where there is none."""
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no model at {name!r}: give a folder with config.json and safetensors, or a hub name ({error})"
        ) from error


def family(config: PretrainedConfig) -> str:
    """Architecture family of a model: mixture-of-experts and dense forms of one design are one family."""
    return config.model_type.removesuffix("_moe").removesuffix("_text")


def check_pair(proxy: PretrainedConfig, target: PretrainedConfig, allow_cross_family: bool = False) -> None:
    """Refuse a proxy that cannot stand in for the target; raises ModelError.

    A text-only proxy never sees what a vision-language target sees, so nothing overrides that refusal.
    """
    if hasattr(target, "vision_config") and not hasattr(proxy, "vision_config"):
        raise ModelError(
            f"the proxy ({proxy.model_type}) reads text only, the target ({target.model_type}) reads images: "
            "choose a vision-language proxy for `models.proxy`"
        )
    if family(proxy) != family(target) and not allow_cross_family:
        raise ModelError(
            f"the proxy is of family {family(proxy)!r}, the target of {family(target)!r}: utilities "
            "need not carry over. "
            "Choose a proxy of the target's family, or set `models.allow_cross_family: true`"
        )


def resolve_device(device: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means on this machine; raises ModelError for an absent one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("compute.device is `cuda`, but torch sees no CUDA device; set it to `auto` or `cpu`")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
