"""The built-in worlds' checkpoints: tiny models of three architectures, built from configs."""

from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from ost.models.checkpoint import Checkpoint
from ost.settings import LLAVA
from ost.worlds.tiny.llava import build_llava
from ost.worlds.tiny.qwen3_vl import build_model, build_processor
from ost.worlds.tiny.spec import PROXY, TARGET, TinySpec, sized
from ost.worlds.tiny.text import build_text

__all__ = [
    "PROXY",
    "TARGET",
    "TinySpec",
    "build",
    "build_llava",
    "build_model",
    "build_processor",
    "build_text",
    "sized",
]


def build(name: str, spec: TinySpec, processor: ProcessorMixin | PreTrainedTokenizerBase, seed: int) -> Checkpoint:
    """The fresh model that a name, `builtin` or `builtin-llava`, stands for in the world whose processor this is.

    A world without images has a tokenizer for a processor, and text-only models under either name.
    """
    if isinstance(processor, PreTrainedTokenizerBase):
        return build_text(spec, processor, seed)
    if name == LLAVA:
        return build_llava(spec, processor.tokenizer, seed)
    return Checkpoint(build_model(spec, processor, seed), processor)
