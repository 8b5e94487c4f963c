#!/usr/bin/env bash
# torch.compile block by block: with the default key-value cache only the first 8 blocks of a decoder run compiled
#
# Versions: torch 2.13.0, transformers 5.24.0.
# Compiling each decoder block by itself (`block.forward = torch.compile(block.forward, dynamic=True)`) is meant to give
# one graph that all blocks share. In a plain forward pass transformers makes a cache unless told otherwise, and each
# block asks its own layer of it whether it has begun: a graph for each block, eight at most, and every block above the
# eighth runs as it is in every pass, without an error (one warning of torch._dynamo names a recompile limit). With
# `use_cache=False`, which families take whose forward names no such parameter, one graph serves all.
#
# Output seen:
#   Qwen3ForCausalLM    with a cache: 8 graphs, 8 of 12 blocks compiled · use_cache=False: 1 graph, 12 of 12
#   LlamaForCausalLM    with a cache: 8 graphs, 8 of 12 blocks compiled · use_cache=False: 1 graph, 12 of 12
#   Gemma3ForCausalLM   with a cache: 8 graphs, 8 of 12 blocks compiled · use_cache=False: 1 graph, 12 of 12
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
    torch==2.13.0 transformers==5.24.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf"
cd "$work"

"$work/env/bin/python" - <<'PY'
import logging

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
BLOCKS = 12
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100}


def compiled(model, **options) -> tuple[int, int]:
    """Graphs that were made, and blocks that run compiled once all are."""
    torch._dynamo.reset()
    graphs, calls = [], []

    def backend(graph, inputs):
        graphs.append(graph)

        def run(*args):
            calls.append(1)
            return graph.forward(*args)

        return run

    for block in model.model.layers:
        block.forward = torch.compile(type(block).forward.__get__(block), dynamic=True, backend=backend)
    with torch.no_grad():
        for _ in range(3):
            calls.clear()
            model(torch.arange(20).reshape(2, 10), **options)
    return len(graphs), len(calls)


for family, config in ((Qwen3ForCausalLM, Qwen3Config), (LlamaForCausalLM, LlamaConfig), (Gemma3ForCausalLM, Gemma3TextConfig)):
    model = family(config(**SIZES)).eval()
    cached, free = compiled(model), compiled(model, use_cache=False)
    print(
        f"{family.__name__:<19} with a cache: {cached[0]} graphs, {cached[1]} of {BLOCKS} blocks compiled · "
        f"use_cache=False: {free[0]} graph, {free[1]} of {BLOCKS}"
    )
    assert (cached, free) == ((8, 8), (1, BLOCKS)), (cached, free)
PY
