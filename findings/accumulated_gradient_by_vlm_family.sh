#!/usr/bin/env bash
# transformers: whether four samples accumulated one by one equal a batch of four depends on the model's family
#
# Versions: transformers 5.24.0, torch 2.13.0.
# The Trainer divides an accumulated loss by the number of learned tokens of the whole batch, so that accumulation
# equals the big batch; but not where the class says `accepts_loss_kwargs = False`. Of the 100 image-text-to-text
# entries 28 say so, among them Qwen2.5-VL, Qwen3-VL, Qwen3.5, GLM-4V, Gemma 3n and 4, Kimi; 72 do not, among them
# Qwen2-VL, LLaVA, Gemma 3, PaliGemma. Of the 28 each micro-batch is averaged by itself: a sample of one learned token
# weighs as much as one of twenty. The class decides, not the data: the rows below are text alone. So the same command
# on the same data weights the samples of two families differently, and a setting that is meant to save memory changes
# what is learned.
#
# Output seen (distance of the two gradients, relative to the batch's; answers of 1, 5, 10 and 20 tokens):
#   LlamaForCausalLM                  1.1e-07
#   LlavaForConditionalGeneration     1e-07
#   Gemma3ForConditionalGeneration    2.1e-07
#   Qwen3VLForConditionalGeneration   1.9, and 2e-07 from the mean of the samples' own gradients
#   28 of 100 classes take no count of the tokens
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 pillow==13.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

cd "$work"
"$work/env/bin/python" - <<'PY'
import copy

import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
text = sizes | {"vocab_size": 64, "pad_token_id": 0, "head_dim": 8, "num_key_value_heads": 4}
tower = CLIPVisionConfig(**sizes, image_size=16, patch_size=8)
qwen_tower = {"depth": 1, "hidden_size": 32, "num_heads": 4, "out_hidden_size": 32, "deepstack_visual_indexes": [0]}
ropes = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
models = (
    LlamaForCausalLM(LlamaConfig(**text)),
    LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=LlamaConfig(**text), image_token_index=63)),
    Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text | {"rope_parameters": ropes}, vision_config=qwen_tower, image_token_id=63)
    ),
    Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=sizes | {"image_size": 16, "patch_size": 8}, image_token_id=63)
    ),
)
samples = []
for learned in (1, 5, 10, 20):
    ids = torch.randint(4, 60, (8 + learned,))
    samples.append({"input_ids": ids, "labels": torch.cat((torch.full((8,), -100), ids[8:]))})


def collate(rows: list[dict]) -> dict:
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([row["input_ids"] for row in rows], batch_first=True)
    labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=-100)
    types = torch.zeros_like(ids)
    mask = (ids > 0).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels} | ({"token_type_ids": types} if gemma else {})


def gradient(model, samples: list[dict], size: int) -> torch.Tensor:
    """Of all samples in one optimizer step, by batches of so many: the step of plain descent, learning rate 1."""
    model = copy.deepcopy(model)
    before = torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])
    arguments = TrainingArguments(
        "out", use_cpu=True, per_device_train_batch_size=size, gradient_accumulation_steps=len(samples) // size, max_steps=1,
        max_grad_norm=0, report_to="none", save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant",
    )
    descent = torch.optim.SGD(model.parameters(), lr=1.0)
    Trainer(model, arguments, data_collator=collate, train_dataset=samples, optimizers=(descent, None)).train()
    return before - torch.cat([weight.detach().flatten() for weight in model.parameters()])


found = {}
for model in models:
    gemma = isinstance(model, Gemma3ForConditionalGeneration)
    whole, accumulated = gradient(model, samples, 4), gradient(model, samples, 1)
    alone = torch.stack([gradient(model, [sample], 1) for sample in samples]).mean(0)
    to_batch, to_mean = (float((accumulated - other).norm() / whole.norm()) for other in (whole, alone))
    found[type(model).__name__] = to_batch, to_mean
    print(f"{type(model).__name__:34}{to_batch:.2g} from the batch's, {to_mean:.2g} from the mean of the samples' own")
without = [
    name for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    if getattr(getattr(transformers, name if isinstance(name, str) else name[0]), "accepts_loss_kwargs", None) is False
]
print(len(without), "of", len(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES), "classes take no count of the tokens")

for exact in ("LlamaForCausalLM", "LlavaForConditionalGeneration", "Gemma3ForConditionalGeneration"):
    assert found[exact][0] < 1e-4 < 0.05 < found[exact][1]
to_batch, to_mean = found["Qwen3VLForConditionalGeneration"]
assert to_batch > 0.05 and to_mean < 1e-4
assert len(without) == 28 and len(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) == 100
PY
