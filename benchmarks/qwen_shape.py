"""Models of Qwen3-VL's form at sizes that benchmarks ask for, with random weights, and samples for them.

The vocabulary is the real one's 151,936 where logits are what is measured; the tokenizer knows fewer tokens, and makes
about one of a word.
"""

import io
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from ost.data import Sample, chat
from ost.worlds.tiny.qwen3_vl import build_processor

WORDS = [
    *(
        "the",
        "a",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "for",
        "with",
        "as",
        "on",
        "by",
        "from",
        "at",
        "this",
        "which",
    ),
    *("how", "many", "red", "blue", "green", "circle", "square", "triangle", "line", "angle", "sum", "two", "numbers"),
]
QUESTION, ANSWER = (30, 110), (70, 260)
"""Fewest and most words."""
PATCH, MERGE = 16, 2
GRAIN = 14
"""Cells on the edge of the noise that a picture is enlarged from."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and of the pictures that it is shown."""

    text: dict[str, Any]
    vision: dict[str, Any]
    edge: int
    """Pixels on the edge of a picture: 448 are 196 tokens."""

    @property
    def sections(self) -> list[int]:
        """Frequencies of a head that count time, height and width."""
        side = self.text["head_dim"] * 5 // 32
        return [self.text["head_dim"] // 2 - 2 * side, side, side]


REAL_2B = Shape(
    {"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
    | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
    {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
    | {"deepstack_visual_indexes": [5, 11, 17], "num_position_embeddings": 2304},
    edge=448,
)
"""Qwen3-VL-2B's: 2.13 billion parameters."""
NARROW = Shape(
    {"vocab_size": 151_936, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
    {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
    | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 256},
    edge=448,
)
"""The real model's logits over weights that are few: what a pass holds beside them is seen."""
TINY = Shape(
    {"vocab_size": 2000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
    | {"deepstack_visual_indexes": [0, 1, 2], "num_position_embeddings": 64},
    edge=64,
)
"""For a CPU."""


def processor_of(shape: Shape) -> ProcessorMixin:
    """A processor whose tokenizer knows WORDS, and that leaves pictures of the shape's edge as large as they are."""
    generator = random.Random(0)
    processor = build_processor([_text(generator, 200) for _ in range(50)])
    processor.tokenizer.model_max_length = 32_768
    processor.image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 4096 * 4096},
    )
    return processor


def model_of(
    shape: Shape, processor: ProcessorMixin, device: str = "cpu", seed: int = 0
) -> Qwen3VLForConditionalGeneration:
    """A model of the shape with random weights in fp32, made on the device."""
    tokenizer = processor.tokenizer
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": shape.sections, "mrope_interleaved": True}
    text = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "rope_parameters": rope}
    vision = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen3VLConfig(
        text_config=shape.text | text | {"max_position_embeddings": 32_768, "tie_word_embeddings": True},
        vision_config=shape.vision | vision | {"out_hidden_size": shape.text["hidden_size"]},
        tie_word_embeddings=True,
        **{name: getattr(processor, name) for name in names},
    )
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3VLForConditionalGeneration(config).eval()


def samples_of(shape: Shape, count: int, seed: int = 1) -> list[Sample]:
    """Samples of one picture, a question and an answer; 446 tokens on average where the edge is 448."""
    generator, noise = random.Random(seed), np.random.default_rng(seed)
    return [
        Sample(
            images=(_picture(noise, shape.edge),),
            messages=chat(_text(generator, generator.randint(*QUESTION)), _text(generator, generator.randint(*ANSWER))),
        )
        for _ in range(count)
    ]


def _picture(noise: np.random.Generator, edge: int) -> bytes:
    cells = Image.fromarray(noise.integers(0, 256, (GRAIN, GRAIN, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    cells.resize((edge, edge), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _text(generator: random.Random, words: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(words))
