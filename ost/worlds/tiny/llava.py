"""Tiny LLaVA models: a second architecture family, with another vision tower, projector and decoder."""

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ost.models.checkpoint import Checkpoint
from ost.worlds.tiny.qwen3_vl import PATCH
from ost.worlds.tiny.spec import TinySpec

EDGE = 32
"""Pixels on the edge that every image is brought to; a token sees 8 × 8 of them."""
IMAGE = "<|image_pad|>"


def build_llava(spec: TinySpec, tokenizer, seed: int) -> Checkpoint:
    """A randomly initialised model of the given sizes with its processor, the same for the same seed."""
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"height": EDGE, "width": EDGE}, do_center_crop=False),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = _config(spec, len(tokenizer), tokenizer.convert_tokens_to_ids(IMAGE), special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    for name, token in special.items():
        setattr(model.generation_config, name, token)
    return Checkpoint(model, processor)


def _config(spec: TinySpec, vocabulary: int, image: int, special: dict[str, int]) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=spec.vision_hidden,
        intermediate_size=2 * spec.vision_hidden,
        num_hidden_layers=spec.vision_layers,
        num_attention_heads=spec.heads,
        image_size=EDGE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=spec.hidden,
        intermediate_size=spec.feedforward,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **special,
    )
    return LlavaConfig(
        vision_config=vision.to_dict() | {"model_type": "clip_vision_model"},
        text_config=text.to_dict() | {"model_type": "llama"},
        image_token_id=image,
        image_token_index=image,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
