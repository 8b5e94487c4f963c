"""Tiny text-only models, of Qwen3's form."""

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ost.models.checkpoint import Checkpoint
from ost.worlds.tiny.spec import TinySpec


def build_text(spec: TinySpec, tokenizer: PreTrainedTokenizerFast, seed: int) -> Checkpoint:
    """A randomly initialised language model of the given sizes, the same for the same seed."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden,
        intermediate_size=spec.feedforward,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads // 2,
        head_dim=spec.hidden // spec.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    return Checkpoint(model, tokenizer)
