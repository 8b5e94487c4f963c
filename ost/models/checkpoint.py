"""Checkpoints: weights and processor, loaded and saved together."""

import contextlib
import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from ost.errors import ModelError
from ost.models.adapter import CONFIG, base_of, has_adapter, load_adapter, save_adapter
from ost.models.configs import load_config, reads_images, revision_of
from ost.models.parts import probe_text
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
    notes: tuple[str, ...] = ()
    """What a person should know of how it was loaded."""
    one_at_a_time: bool = False
    """A sample's loss depends on its batch mates, so a batch has to hold one sample."""
    shares: bool = True
    """What lies below some weights may run once for passes by copies that differ in these weights alone."""

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
    """Load a local folder or a hub name, `NAME@REVISION` where it is pinned, in fp32: safetensors only, and no code.

    An adapter's folder gives base and adapter as one model, and a note that tells where the base came from. `base`:
    what the checkpoint was trained from, for a proxy that is scored with. Raises ModelError where nothing loadable is
    found, or an adapter's base is an adapter itself.
    """
    config, beneath = load_config(name), base_of(name)
    if beneath and base_of(beneath):
        raise _on_an_adapter(name, beneath)
    try:
        model, notes = _load_weights(beneath or name, config)
        if beneath:
            if has_adapter(model):  # of the hub, where transformers loads what it is on without a word
                raise _on_an_adapter(name, beneath)
            load_adapter(model, name)
            notes += (f"{name} is an adapter; its base was loaded from {beneath}",)
        moments = load_file(file) if (file := Path(name) / SECOND_MOMENT).is_file() else None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the weights of {name} (safetensors only): {error}") from error
    return Checkpoint(model.to(device).eval(), load_processor(name, config), moments, base, notes)


def _on_an_adapter(name: str | Path, beneath: str | Path) -> ModelError:
    return ModelError(
        f"{name} is an adapter on {beneath}, which is an adapter itself: merge that one into its base, and name the "
        f"result in the adapter's {CONFIG}"
    )


def in_float64(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose model is a copy in float64: experts one by one, since the fused ones know no float64.

    Raises ModelError for a model of which parts compute in fp32 whatever their weights are.
    """
    model = copy.deepcopy(checkpoint.model).double()
    with contextlib.suppress(ValueError, AttributeError):  # what has no experts has no choice of them
        model.set_experts_implementation("eager")
    text = probe_text(model)
    try:
        with torch.no_grad():
            model(**text)
    except RuntimeError as error:
        raise ModelError(
            f"{type(model).__name__} does not compute in float64 ({error}): set score.checks to 0 to score unchecked"
        ) from error
    return dataclasses.replace(checkpoint, model=model)


def checkpoint_folders(name: str | Path) -> list[Path]:
    """The folders that a local checkpoint is read from: its own, and that of its adapter's base."""
    base = base_of(name)
    return [Path(name), *([Path(base)] if base and Path(base).is_dir() else [])]


def _load_weights(name: str | Path, config: PretrainedConfig) -> tuple[PreTrainedModel, tuple[str, ...]]:
    model, absent = _read_weights(name, config)
    notes: tuple[str, ...] = ()
    if absent and not config.tie_word_embeddings and config.get_text_config().tie_word_embeddings:
        config.tie_word_embeddings = True
        model, absent = _read_weights(name, config)
        notes = (
            f"{name} ties the head to the word embeddings by tie_word_embeddings of its text_config alone, which "
            "transformers does not read there: they were tied, as its weights have it",
        )
    if absent:
        # transformers would fill them with random numbers.
        raise ModelError(f"{name} lacks {len(absent)} of the model's weights, such as {absent[0]}; fetch it anew")
    return model, notes


def _read_weights(name: str | Path, config: PretrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    auto = AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM
    options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True, "trust_remote_code": False}
    plain, revision = revision_of(name)
    model, info = auto.from_pretrained(plain, config=config, revision=revision or "main", **options)
    return model, sorted(info["missing_keys"])


def resolve_device(device: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means on this machine; raises ModelError for an absent one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("compute.device is `cuda`, but torch sees no CUDA device; set it to `auto` or `cpu`")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
