#!/usr/bin/env bash
# PEFT: of a pattern for a model with fused experts only the last parts of the names it matched are kept
#
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0.
# transformers 5 keeps the experts of a layer in two stacked weights. For 28 kinds of models (Mixtral, Qwen3-MoE,
# Qwen3-Omni, DeepSeek-V3, GLM-4.5V and others) PEFT translates the targets of a LoRA from the old names, and for that
# turns a regular expression or `all-linear` into bare last parts: `q_proj`, wherever it stands. So
# - a pattern for the first layer adapts all layers, and one for the language model adapts the audio tower too;
# - `all-linear` ends in an error for Qwen3-Omni, where some linear layers are called `0`, and so are blocks;
# - `gate_proj`, `up_proj` and `down_proj` always mean the experts: linear layers of these names that are none (those of
#   DeepSeek-V3's dense first layer and shared experts) get nothing by `all-linear`, and the whole names of those of the
#   dense layer adapt the experts of all other layers in their place.
# No warning says so. What is adapted is what was written in families without experts, and where whole names are none of
# these three.
#
# Output seen (adapted of the linear layers that are meant, and what is adapted beside them):
#   a pattern for the attention of layer 0
#     Qwen3                2 of 2, and 0 others
#     Qwen3Moe             2 of 2, and 4 others: in layers 1 and 2
#     Mixtral              2 of 2, and 4 others: in layers 1 and 2
#   a pattern for the attention of the language model
#     Qwen3OmniMoeThinker  6 of 6, and 2 others: in the audio tower
#   all-linear
#     Qwen3                21 of 21, and 0 others
#     DeepseekV3           15 of 24, and 6 others: the experts and routers of layers 1 and 2
#     Qwen3OmniMoeThinker  ValueError: Target module Qwen3OmniMoeAudioEncoderLayer(... is not supported
#   whole names
#     DeepseekV3           0 of 3, and 4 others: the experts of layers 1 and 2
#     Qwen3Moe             2 of 2, and 0 others
#   28 kinds of models
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
    torch==2.13.0 transformers==5.24.0 peft==0.21.2
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf"
cd "$work"

"$work/env/bin/python" - <<'PY'
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils import transformers_weight_conversion as conversion
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 100}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
EXPERTS = SIZES | {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
RANKS = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
AUDIO = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "output_dim": 32}
SIGHT = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
MODELS = {
    "Qwen3": ("CausalLM", SIZES),
    "Qwen3Moe": ("CausalLM", EXPERTS | {"num_experts": 4}),
    "Mixtral": ("CausalLM", SIZES | {"num_local_experts": 4}),
    "DeepseekV3": (
        "CausalLM",
        EXPERTS | RANKS | {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
        | {"first_k_dense_replace": 1},
    ),
    "Qwen3OmniMoeThinker": (
        "ConditionalGeneration",
        {"text_config": EXPERTS | {"num_experts": 4}, "audio_config": AUDIO | {"downsample_hidden_size": 16}}
        | {"vision_config": SIGHT | {"deepstack_visual_indexes": [0]}},
    ),
}


def adapted(kind: str, targets: str | list[str], meant) -> tuple[list[str], list[str], int]:
    """What is adapted of the linear layers that are meant, what beside them, and how many are."""
    head, settings = MODELS[kind]
    model = getattr(transformers, f"{kind}For{head}")(getattr(transformers, f"{kind}Config")(**settings))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"}
    wanted = {name for name in linear if meant(name)}
    model = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
    found = {name.split(".lora_A.")[0] for name, _ in model.base_model.model.named_parameters() if ".lora_A." in name}
    return sorted(found & wanted), sorted(found - wanted), len(wanted)


def show(kind: str, hits: list[str], others: list[str], whole: int) -> None:
    print(f"  {kind:<20} {len(hits)} of {whole}, and {len(others)} others {' '.join(others)}")


def attention(part: str):
    return lambda name: name.startswith(part) and name.endswith(("self_attn.q_proj", "self_attn.v_proj"))


print("a pattern for the attention of layer 0")
pattern = r"model\.layers\.0\.self_attn\.(q_proj|v_proj)"
for kind in ("Qwen3", "Qwen3Moe", "Mixtral"):
    hits, others, whole = adapted(kind, pattern, attention("model.layers.0."))
    show(kind, hits, others, whole)
    assert (len(hits), whole) == (2, 2)
    layers = {name.split(".")[2] for name in others}
    assert (len(others), layers) == ((0, set()) if kind == "Qwen3" else (4, {"1", "2"})), others

print("a pattern for the attention of the language model")
omni, pattern = "Qwen3OmniMoeThinker", r"model\.language_model\..*\.self_attn\.(q_proj|v_proj)"
hits, others, whole = adapted(omni, pattern, attention("model.language_model."))
show(omni, hits, others, whole)
assert (len(hits), whole) == (6, 6)
assert others == [f"model.audio_tower.layers.0.self_attn.{part}_proj" for part in "qv"]

print("all-linear")
hits, others, whole = adapted("Qwen3", "all-linear", lambda _: True)
show("Qwen3", hits, others, whole)
assert (len(hits), others, whole) == (21, [], 21)
hits, others, whole = adapted("DeepseekV3", "all-linear", lambda _: True)
show("DeepseekV3", hits, others, whole)
assert (len(hits), whole) == (15, 24) and not any(".mlp." in name for name in hits)
try:
    adapted(omni, "all-linear", lambda _: True)
except ValueError as error:
    print(f"  {omni:<20} ValueError: {str(error).splitlines()[0]}")
    assert "Layer(" in str(error) and "is not supported" in str(error)
else:
    raise AssertionError("no error")

print("whole names")
names = [f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")]
hits, others, whole = adapted("DeepseekV3", names, lambda name: name in names)
show("DeepseekV3", hits, others, whole)
assert (hits, whole) == ([], 3)
assert {name.removesuffix(".base_layer") for name in others} == {f"model.layers.{at}.mlp.experts" for at in (1, 2)}
names = [f"model.layers.0.self_attn.{part}_proj" for part in "qv"]
hits, others, whole = adapted("Qwen3Moe", names, lambda name: name in names)
show("Qwen3Moe", hits, others, whole)
assert (hits, others) == (names, [])

like = conversion._MODEL_TO_CONVERSION_PATTERN
kinds = [name for name in CONFIG_MAPPING_NAMES if like.get(name) in conversion._MOE_FUSED_TARGETS]
print(len(kinds), "kinds of models")
assert len(kinds) == 28 and {"mixtral", "qwen3_moe", "qwen3_omni_moe_thinker", "deepseek_v3", "glm4v_moe"} <= set(kinds)
PY
