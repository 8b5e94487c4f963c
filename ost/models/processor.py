"""One loader for processors, with or without torchvision, and without a model's weights.

Without torchvision, `transformers` cannot build the video half of a processor that has one, and `AutoProcessor` fails
although no video is needed. The same files then load into a form of the same class that is for images and text alone;
so do files that name no video half, with torchvision too. What that form saves is whole again on a machine with
torchvision: the settings of the video half travel along.
"""

import functools
import json
from pathlib import Path

import transformers
from transformers import AutoProcessor, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file, is_torchvision_available

from ost.errors import ModelError
from ost.models.configs import load_config, reads_images, revision_of

VIDEO = "video_processor"
SHARED = ("patch_size", "temporal_patch_size", "merge_size")
"""Settings of an image processor that its model's video processor must have, too."""
BACKENDS = {"mllama": "pil"}
"""Image processors that are taken in one of their two makes: the other fails where a batch begins with a text alone."""


def load_processor(
    name: str | Path, config: PretrainedConfig | None = None
) -> ProcessorMixin | PreTrainedTokenizerBase:
    """Processor of a checkpoint: a hub name or a local folder. A text-only checkpoint gives its tokenizer.

    No weights are read. Raises ModelError where the checkpoint has no processor that can be built here.
    """
    config = load_config(name) if config is None else config
    try:
        processor = _load(name, config)
    except (ImportError, AttributeError, ValueError, OSError) as error:
        hint = "" if is_torchvision_available() else " (some processors need torchvision, which is not installed)"
        raise ModelError(f"cannot load the processor of {name}{hint}: {error}") from error
    token = getattr(config, "image_token_id", None)
    if token is not None and token >= len(getattr(processor, "tokenizer", processor)):
        # Without its files, transformers makes an empty tokenizer of the right class.
        raise ModelError(
            f"the tokenizer of {name} has no image token ({token}): its files are missing or another model's"
        )
    return processor


def _load(name: str | Path, config: PretrainedConfig) -> ProcessorMixin | PreTrainedTokenizerBase:
    name, revision = revision_of(name)
    options = {"revision": revision or "main", "trust_remote_code": False}
    if not reads_images(config):
        return AutoTokenizer.from_pretrained(name, **options)
    known = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(config.model_type) or "", None)
    halved = isinstance(known, type) and VIDEO in _parts(known)
    if halved and not (is_torchvision_available() and _names_video(name, options["revision"])):
        return image_only(known).from_pretrained(name, **options)
    backend = {"backend": BACKENDS[config.model_type]} if config.model_type in BACKENDS else {}
    return AutoProcessor.from_pretrained(name, **options, **backend)


def _parts(known: type) -> list[str]:
    try:
        return known.get_attributes()
    except ImportError:  # a class that says what it needs instead
        return []


class _WithoutVideo(ProcessorMixin):
    """Stands between a processor's class and its base, and takes the video processor out of what passes."""

    def __init__(self, *parts, **options):
        named = super(type(self), type(self)).get_attributes()
        kept = [part for part, name in zip(parts, named, strict=False) if name != VIDEO]
        self.video_processor = None
        super().__init__(*kept, **{name: value for name, value in options.items() if name != VIDEO})


@functools.cache
def image_only(known: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A class like a known one of `transformers`, by its name too, for images and text alone."""

    class ImageOnly(known, _WithoutVideo):
        """For images and text alone."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            """The parts that are loaded and saved."""
            return [name for name in super().get_attributes() if name != VIDEO]

        @classmethod
        def from_pretrained(cls, name: str | Path, **options) -> ProcessorMixin:
            """As the known class does it."""
            processor = super().from_pretrained(name, **options)
            processor._video_settings = _video_settings(name, options.get("revision", "main"))
            return processor

        def to_dict(self) -> dict:
            """The saved form, which a machine with torchvision loads as the whole."""
            images = self.image_processor
            shared = {name: getattr(images, name) for name in SHARED if hasattr(images, name)}
            whole = super().to_dict() | {VIDEO: getattr(self, "_video_settings", None) or shared}
            return {name: value for name, value in whole.items() if name != "_video_settings"}

    ImageOnly.__name__, ImageOnly.__qualname__, ImageOnly.__module__ = known.__name__, known.__name__, __name__
    return ImageOnly


def _names_video(name: str | Path, revision: str) -> bool:
    """Whether a checkpoint has settings that a video processor can be made of: its own, or the images' of old."""
    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    return bool(cached_file(name, "preprocessor_config.json", **options) or _video_settings(name, revision))


def _video_settings(name: str | Path, revision: str) -> dict | None:
    """Settings of a checkpoint's video processor, where it has some."""
    found: dict[str, dict] = {}
    for file in ("processor_config.json", "video_preprocessor_config.json"):
        path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        found[file] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return found["processor_config.json"].get(VIDEO) or found["video_preprocessor_config.json"] or None


ImageOnlyQwen3VLProcessor = image_only(transformers.Qwen3VLProcessor)
"""What the built-in worlds' models have."""


def __getattr__(name: str) -> type[ProcessorMixin]:
    """The image-only form of a processor that is unpickled."""
    known = getattr(transformers, name, None)
    if isinstance(known, type) and issubclass(known, ProcessorMixin):
        return image_only(known)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
