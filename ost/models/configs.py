"""Model configurations: loaded, and what they say: which family, whether it reads images, whether a proxy suits."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ost.errors import ModelError


def load_config(name: str | Path) -> PretrainedConfig:
    """Configuration of a checkpoint; raises ModelError where there is none."""
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no model at {str(name)!r}: give a folder with config.json and safetensors, or a hub name ({error})"
        ) from error


def reads_images(config: PretrainedConfig) -> bool:
    """Whether `transformers` has a model of this kind that answers questions about images."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def family(config: PretrainedConfig) -> str:
    """Architecture family of a model: mixture-of-experts and dense forms of one design are one family."""
    return config.model_type.removesuffix("_moe").removesuffix("_text")


def check_pair(proxy: PretrainedConfig, target: PretrainedConfig, allow_cross_family: bool = False) -> None:
    """Refuse a proxy that cannot stand in for the target; raises ModelError.

    A text-only proxy never sees what a vision-language target sees, so nothing overrides that refusal.
    """
    if reads_images(target) and not reads_images(proxy):
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
