#!/usr/bin/env bash
# transformers: with `bf16_full_eval=True`, an evaluation before the training makes the training one of bf16 weights
#
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0.
# `evaluate()` casts the model itself, and nothing casts it back. So the usual first evaluation, to know where the model
# stands, turns fp32 weights into bf16 ones; `train()` goes on with them, its optimizer keeps bf16 moments, and at a
# usual learning rate a step is less than the distance to the next bf16 number: most weights never move, and the ones
# that do move by too much. `save_model()` writes bf16. Without that first evaluation the same arguments train in fp32.
# Evaluations within the training cast nothing. No warning says any of this.
#
# Output seen (20 steps of AdamW at 1e-5 on fp32 weights):
#   evaluate() first: False; weights bf16 False; moved 99%, saved as torch.float32
#   evaluate() first: True; weights bf16 True; moved 15%, saved as torch.bfloat16
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 safetensors==0.8.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

cd "$work"
"$work/env/bin/python" - <<'PY'
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def trained(look_first: bool) -> tuple[torch.dtype, float, torch.dtype]:
    """The weights' dtype after the training, the share of them that it moved, and the dtype that is saved."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64, pad_token_id=0))
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 60, (16, 16))]
    arguments = TrainingArguments(
        f"out-{look_first}", use_cpu=True, bf16_full_eval=True, max_steps=20, per_device_train_batch_size=4, learning_rate=1e-5,
        lr_scheduler_type="constant", report_to="none", save_strategy="no", disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    if look_first:
        trainer.evaluate()
    start = [weight.detach().clone() for weight in model.parameters()]
    trainer.train()
    moved = sum(int((weight != before).sum()) for weight, before in zip(model.parameters(), start))
    trainer.save_model()
    saved = load_file(f"out-{look_first}/model.safetensors")["model.norm.weight"].dtype
    return next(model.parameters()).dtype, moved / sum(weight.numel() for weight in start), saved


found = {first: trained(first) for first in (False, True)}
for first, (dtype, moved, saved) in found.items():
    print(f"evaluate() first: {first}; weights bf16 {dtype == torch.bfloat16}; moved {moved:.0%}, saved as {saved}")
assert found[False][0] == found[False][2] == torch.float32 and found[False][1] > 0.95
assert found[True][0] == found[True][2] == torch.bfloat16 and found[True][1] < 0.6
PY
