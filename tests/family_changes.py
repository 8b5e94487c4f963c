"""What a tiny model of some families needs beside its shrunk defaults, by the name of its configuration."""


def _rope(*sections: int) -> dict:
    return {"whole": True, "rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}


_PLAIN = {"rope_type": "default", "rope_theta": 1e4}
_DEEP = {"vision_config": {"deepstack_visual_indexes": [0, 1]}}
_GRID = {"image_grid_pinpoints": [[32, 32], [32, 64], [64, 32]]}
_PLACES = {"image_token_id": 260, "video_token_id": 261}
_SAM = {"image_size": 64, "patch_size": 4, "output_channels": 32, "downsample_channels": [48, 64]}
_SAM |= {"global_attn_indexes": [1], "window_size": 4, "initializer_range": 0.02}
_SHARED = {"num_kv_shared_layers": 1, "num_hidden_layers": 4, "intermediate_size": [96] * 4}
_SHARED |= {"layer_types": ["sliding_attention", "full_attention"] * 2}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1}

CHANGES: dict[str, dict] = {
    "aria": {"projector_patch_to_query_dict": {"whole": True, 16: 4, 4: 2}},
    "chameleon": {
        "vq_config": _VQ
        | {"resolution": 32, "attn_resolutions": None, "latent_channels": 32, "embed_dim": 32, "num_embeddings": 16},
        "vocabulary_map": {"<image>": 300}
        | {f"IMGIMG{''.join(chr(65 + int(c)) for c in str(i))}Z": 301 + i for i in range(16)},
    },
    "cohere_compass": {
        "text_config": {
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"whole": True, "full_attention": _PLAIN, "sliding_attention": _PLAIN},
        }
    }
    | _DEEP,
    "cosmos3_omni": _DEEP,
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_key_value_heads": 4, "num_experts_per_tok": 2},
        "vision_config": {"sam_config": _SAM, "encoder_config": {"rope_parameters": _PLAIN}},
    },
    "deepseek_vl_hybrid": {
        "high_res_vision_config": {"image_size": 64, "patch_size": 8, "output_channels": 32, "scale": 64}
        | {"num_pos_feats": 16, "downsample_channels": [32, 64], "global_attn_indexes": [1], "window_size": 2}
    },
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4, "head_dim": 24, "per_layer_config": {}},
        "vision_config": {"per_layer_config": {}},
        "audio_config": {"num_key_value_heads": 4, "adapter_input_size": 64, "conv_output_size": 64},
    },
    "emu3": {
        "text_config": {"vocab_size": 400},
        "vq_config": _VQ
        | {"embed_dim": 8, "latent_channels": 8, "codebook_size": 16, "hidden_size": 64}
        | {"temporal_downsample_factor": 2, "attn_resolutions": [1]},
        "vocabulary_map": {"<image>": 300, "<|extra_200|>": 319}
        | {f"<|visual token {i:06d}|>": 301 + i for i in range(16)},
    },
    "ernie4_5_vl_moe": {
        "text_config": {"moe_num_experts": 4, "moe_intermediate_size": [96, 96], "mlp_layer_types": ["dense", "sparse"]}
        | {"rope_parameters": _rope(3, 3, 2)}
    },
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma4": {
        "vision_config": {"model_type": "gemma4_vision", "hidden_size": 64, "intermediate_size": 96}
        | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "patch_size": 8}
        | {"position_embedding_size": 64, "pooling_kernel_size": 2, "global_head_dim": 16}
    },
    "gemma4_unified": {
        "vision_config": {"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "output_proj_dims": 64}
        | {"patch_size": 8, "pooling_kernel_size": 1, "num_soft_tokens": 24, "mm_posemb_size": 64}
    },
    "glm5_next": {
        "text_config": {"num_key_value_heads": 4, "index_kpool": 4, "qk_rope_head_dim": 0, "qk_head_dim": 16}
        | {"head_dim": 0}
    },
    "granite4_vision": {
        "spatial_target_layers": [0, 1],
        "deepstack_layer_map": [[-1, 0], [-2, 1]],
        "downsample_rate": "2/4",
        "use_image_newline_parameter": True,
    }
    | _GRID,
    "got_ocr2": {"vision_config": {"initializer_range": 0.02}},
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": _rope(2, 2, 2, 2)}},
    "hy_v4_vl": {"text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}}},
    "idefics2": {
        "perceiver_config": {"resampler_n_latents": 4, "hidden_size": 64, "resampler_n_heads": 4}
        | {"num_key_value_heads": 2, "resampler_depth": 1}
    },
    "janus": {
        "vq_config": _VQ | {"latent_channels": 32, "embed_dim": 8, "num_patches": 4, "image_token_embed_dim": 16},
        "vision_config": {"projection_dim": 64, "num_image_tokens": 16},
    },
    "llama4": {
        "vision_config": {"projector_input_dim": 64, "projector_output_dim": 64, "vision_output_dim": 64}
        | {"pixel_shuffle_ratio": 0.5, "intermediate_size": 256},
        "text_config": {"moe_layers": [1], "no_rope_layers": [1, 0]},
    },
    "mllama": {
        "vision_config": {"num_global_layers": 1, "intermediate_layers_indices": [0, 1], "vision_output_dim": 192}
        | {"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "image_size": 32, "patch_size": 8},
        "text_config": {"cross_attention_layers": [1], "num_hidden_layers": 3},
    },
    "molmo2": {
        "adapter_config": {"vision_feature_layer": [-1, -2]},
        "vision_config": {"num_position_embeddings": 16},
        "text_config": {"additional_vocab_size": 8},
    },
    "muse_spark": {
        "out_hidden_size": 256,
        "audio_config": {"num_hidden_layers": 4, "depths": [1] * 4, "hidden_sizes": [16] * 4},
    },
    "muse_glimmer": {"out_hidden_size": 256},
    "nemotron_h_omni": {
        "img_context_token_id": 260,
        "vision_hidden_size": 64,
        "text_config": {"n_groups": 1},
        "vision_config": {"patch_dim": 192, "hidden_size": 64, "num_hidden_layers": 2},
    }
    | _PLACES,
    "paddleocr_vl": {"text_config": {"rope_parameters": _rope(2, 3, 3)}},
    "qwen2_5_omni_thinker": {
        "text_config": {"rope_parameters": _rope(2, 3, 3)},
        "vision_start_token_id": 260,
        "audio_config": {"encoder_layers": 1},
    },
    "qwen2_vl": {
        "text_config": {"rope_parameters": _rope(2, 3, 3)},
        "vision_config": {"embed_dim": 64, "hidden_size": 64},
    },
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 260, "audio_config": {"encoder_layers": 1}},
    "qwen4_exp": {
        "text_config": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 512}
        | {"indexer_compress_ratio": 4, "hc_lowrank": 8, "ple_embed_dim": 64, "ngram_vocab_size_base": 97}
        | {"split_ngram_parts": 1, "heads_per_ngram": 2, "make_ngram_vocab_size_divisible_by": 8}
    },
    "step3p7": {"text_config": {"sliding_window": 64}},
    "unlimited_ocr": {
        "text_config": {"num_key_value_heads": 4},
        "vision_config": {"sam_config": _SAM, "encoder_config": {"image_size": 32, "patch_size": 8}},
    },
    "video_llava": {"image_seq_length": 17, "video_seq_length": 17},
    "vipllava": {"vision_feature_layers": [-1, -2], "vision_feature_layer": [-1, -2]},
    # text
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 16, "mamba_n_heads": 8},
    "gemma3n_text": _SHARED | {"activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "zaya": {"num_experts_per_tok": 1},
}
for _name in ("qwen2_5_vl", "glm4v", "glm46v", "glmga", "glm_ocr"):
    CHANGES[_name] = {"text_config": {"rope_parameters": _rope(2, 3, 3)}}
for _name in ("llava_next", "llava_next_video", "llava_onevision"):
    CHANGES[_name] = _GRID
CHANGES |= {
    "glm4v_moe": {"text_config": {"rope_parameters": _rope(2, 1, 1)}},
    "idefics3": {"scale_factor": 2},
    "minicpmv4_6": _PLACES | {"insert_layer_id": 0},
    "minicpmv4_7": _PLACES | {"insert_layer_id": 0},
    "minicpm_ocr": _PLACES,
    "pp_chart2table": CHANGES["got_ocr2"],
    "qwen3_vl": _DEEP,
    "qwen3_vl_moe": _DEEP,
    "shieldgemma2": CHANGES["gemma3"],
    "smolvlm": {"scale_factor": 2},
}
