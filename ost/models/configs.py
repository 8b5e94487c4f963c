"""Model configurations: loaded, and what they say: which family, whether it reads images, whether a proxy suits."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import cached_file

from ost.errors import ModelError


def revision_of(name: str | Path) -> tuple[str | Path, str | None]:
    """A checkpoint's folder or hub name, and the revision (a commit, tag or branch) that `NAME@REVISION` pins it to."""
    plain, _, revision = str(name).rpartition("@")
    return (name, None) if not plain or Path(name).exists() else (plain, revision)


def commit_of(name: str | Path) -> str | None:
    """The commit of the hub that a checkpoint was fetched from; None for a folder."""
    plain, revision = revision_of(name)
    if Path(plain).exists():
        return None
    return Path(cached_file(plain, "config.json", revision=revision or "main")).parent.name


def load_config(name: str | Path) -> PretrainedConfig:
    """Configuration of a checkpoint: a folder, or a hub name, pinned or not; raises ModelError where there is none."""
    plain, revision = revision_of(name)
    try:
        return AutoConfig.from_pretrained(plain, revision=revision or "main", trust_remote_code=False)
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
