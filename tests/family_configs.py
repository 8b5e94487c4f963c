"""A tiny configuration of any model of transformers: its own defaults, shrunk by the names of their settings."""

import json

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WIDTH, HEADS, PAIRS, HEAD, INNER, WORDS = 64, 4, 2, 16, 96, 320
BY_SIZE = {
    WIDTH: "hidden_size d_model n_embd dim text_hidden_size encoder_hidden_size word_embed_proj_dim out_hidden_size "
    "projector_output_dim kv_dim output_dim merged_hidden_size adapter_in_dim adapter_out_dim image_text_hidden_size "
    "projection_hidden_size projector_hidden_size projector_input_dim mlp_hidden_size embedding_size "
    "decoder_hidden_size projection_dim vision_hidden_size patch_embed_hidden_size moe_hidden_size audio_embed_dim "
    "width emb_dim projection_hidden_dim lru_width pooler_output_size num_position_embeddings sliding_window "
    "sliding_window_size attention_chunk_size index_block_size",
    HEADS: "num_attention_heads num_heads n_head n_heads attention_heads encoder_attention_heads "
    "decoder_attention_heads swa_num_attention_heads num_sliding_attention_heads resampler_n_heads "
    "linear_num_value_heads num_experts num_local_experts n_routed_experts moe_num_experts index_n_heads "
    "ffn_num_experts mamba_dt_rank time_step_rank",
    PAIRS: "num_key_value_heads swa_num_key_value_heads num_kv_heads n_kv_heads linear_num_key_heads num_query_groups "
    "num_hidden_layers n_layer n_layers num_layers depth encoder_layers decoder_layers layers num_decoder_layers "
    "num_encoder_layers num_blocks num_experts_per_tok moe_k num_experts_per_token moe_topk moe_top_k "
    "index_topk_blocks",
    HEAD: "head_dim attention_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim swa_head_dim "
    "global_head_dim d_kv qk_nope_head_dim v_head_dim index_head_dim resampler_head_dim swa_v_head_dim "
    "swa_qk_head_dim key_size mamba_d_head mamba_head_dim window_size chunk_size mamba_chunk_size",
    8: "qk_rope_head_dim rotary_dim d_rel patch_size ssm_state_size mamba_d_state mamba_num_heads mamba_n_heads "
    "state_size",
    32: "q_lora_rank kv_lora_rank hidden_size_per_layer_input o_lora_rank num_embeddings codebook_size image_size",
    INNER: "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff moe_intermediate_size "
    "shared_expert_intermediate_size mlp_dim dense_intermediate_size shared_intermediate_size "
    "moe_shared_expert_intermediate_size share_expert_dim projection_intermediate_size "
    "shared_experts_intermediate_size alignment_intermediate_size intermediate_size_mlp ffn_hidden_size "
    "ffn_hidden_size_mlp expert_ffn_hidden_size mlp_intermediate_size",
    1: "n_group topk_group num_expert_group n_shared_experts moe_num_shared_experts num_shared_experts "
    "num_nextn_predict_layers",
    WORDS: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    512: "max_position_embeddings n_positions index_topk",
}
SIZES = {name: size for size, names in BY_SIZE.items() for name in names.split()}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 5, "decoder_start_token_id": 1}
TOKENS |= {"_pad_token_id": 0}
MARKS = ("image_patch_id", "im_start_id", "im_end_id", "im_newline_id")
LEFT_OUT = {"id2label", "label2id", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures"}
LEFT_OUT |= {"use_bfloat16", "per_layer_config"}


def tiny(kind: str, changes: dict | None = None) -> PretrainedConfig:
    """The configuration of a kind of model, with two layers or one of each type; `changes` replace what it has.

    A change to `...` leaves a setting out; a dictionary with `whole` replaces one instead of being merged with it.
    """
    known = CONFIG_MAPPING[kind]
    whole = json.loads(known().to_json_string(use_diff=False), object_hook=_number)
    del whole["model_type"]
    return known(**_merged(_shrunk(whole, {}), changes or {}))


def _number(found: dict) -> dict | float:
    return float(found["__float__"].replace("Infinity", "inf")) if "__float__" in found else found


def _shrunk(own: dict, marks: dict[str, int]) -> dict:
    found = {name: _small(name, value, own, marks) for name, value in own.items() if name not in LEFT_OUT}
    found = {name: value for name, value in found.items() if value is not ...}
    if kinds := list(dict.fromkeys(own.get("layer_types") or ())):
        count = max(2, len(kinds))
        found |= {"layer_types": (kinds + kinds[-1:] * count)[:count], "num_hidden_layers": count}
    ropes = found.get("rope_parameters")
    if isinstance(ropes, dict):
        for one in (ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))):
            if "mrope_section" in one:
                one["mrope_section"] = [HEAD // 4, HEAD // 8, HEAD // 8]
    return found


def _small(name: str, value: object, own: dict, marks: dict[str, int]) -> object:
    """A setting's value in a tiny model; `...` for one that the configuration is to derive."""
    if isinstance(value, dict):
        return _shrunk(value, marks)
    if "qk_rope_head_dim" in own and name in (latent := {"head_dim": 8, "num_key_value_heads": HEADS}):
        return latent[name]
    if "qk_rope_head_dim" in own and name == "qk_head_dim":
        return HEAD + 8
    if name in TOKENS and isinstance(value, int | list):
        return TOKENS[name]
    if isinstance(value, float) and ("drop" in name or name.endswith("_pdrop")):
        return 0.0
    if isinstance(value, list) and len(value) == own.get("num_hidden_layers") and name != "layer_types":
        return ...
    if isinstance(value, list) and name in ("image_size", "patch_size"):
        return [SIZES[name]] * len(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name.endswith(("_token_id", "_token_index")) or name in MARKS:
        return marks.setdefault(name.replace("_index", "_id"), 250 + len(marks))
    return SIZES.get(name, value)


def _merged(own: dict, changes: dict) -> dict:
    found = dict(own)
    for name, value in changes.items():
        if isinstance(value, dict) and "whole" in value:
            value = {key: one for key, one in value.items() if key != "whole"}
        elif isinstance(value, dict) and isinstance(found.get(name), dict):
            value = _merged(found[name], value)
        found[name] = value
    return {name: value for name, value in found.items() if value is not ...}
