"""One loader for processors, with or without torchvision.

Without torchvision, `transformers` cannot build the video half of a Qwen3-VL processor, and `AutoProcessor` fails
although no video is needed. The same files then load into the image-only form below.
"""

from pathlib import Path

from transformers import AutoProcessor, AutoTokenizer, PretrainedConfig, Qwen2VLImageProcessorPil, Qwen3VLProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from ost.errors import ModelError


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    """A Qwen3-VL processor for images and text, which asks for no video processor."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        for name, default in {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        }.items():
            token = getattr(tokenizer, name, default)
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        self.video_processor = None
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that are loaded and saved."""
        return ["image_processor", "tokenizer"]

    def to_dict(self) -> dict:
        """The saved form, which a machine with torchvision loads as the full `Qwen3VLProcessor`."""
        return super().to_dict() | {"processor_class": Qwen3VLProcessor.__name__}


def load_processor(name: str | Path, config: PretrainedConfig) -> ProcessorMixin:
    """Processor of a checkpoint: a hub name or a local folder. A text-only checkpoint gives its tokenizer.

    Raises ModelError where the checkpoint has no processor that can be built here.
    """
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


def _load(name: str | Path, config: PretrainedConfig) -> ProcessorMixin:
    if not hasattr(config, "vision_config"):
        return AutoTokenizer.from_pretrained(name)
    if config.model_type.startswith("qwen3_vl") and not is_torchvision_available():
        return _image_only(name)
    return AutoProcessor.from_pretrained(name)


def _image_only(name: str | Path) -> ImageOnlyQwen3VLProcessor:
    tokenizer = AutoTokenizer.from_pretrained(name)
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(name)
    return ImageOnlyQwen3VLProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)
