#!/usr/bin/env bash
# Two user turns in a row: TRL trains on both, ms-swift glues their texts together, LLaMA-Factory drops the sample
#
# Versions: trl 1.16.0, ms-swift 4.6.0, llamafactory 0.9.5.
# Chat logs have them (a picture, then the question), and every one of the three takes `messages`. TRL renders what is
# there, by the model's template. ms-swift joins consecutive turns of one role without anything between: "Look at" and
# "the left one." become "Look atthe left one.". LLaMA-Factory wants user and assistant by turns and leaves any other
# sample out; its warning goes by, and the data set is shorter.
#
# Output seen:
#   trl           ...<|im_start|>user\nLook at<|im_end|>\n<|im_start|>user\nthe left one.<|im_end|>\n...
#   ms-swift      ...<|im_start|>user\nLook atthe left one.<|im_end|>\n...
#   llamafactory  [WARNING] Skipping this abnormal example.
#                 1 sample(s) of 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
make_env() { "$uv" venv --quiet --python "$(command -v python3)" "$work/$1"; }
install() { "$uv" pip install --quiet --python "$work/$1/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "${@:2}"; }
make_env trl && make_env swift && make_env factory
install trl torch==2.13.0 transformers==5.24.0 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 jinja2==3.1.6
install swift torch==2.13.0 transformers==5.19.0 datasets==4.8.4 peft==0.20.0 trl==0.29.1 accelerate==1.15.0 \
    modelscope==1.40.2 pillow==13.0.0 json-repair==0.64.6 dacite==1.9.2 simplejson==4.3.0 sortedcontainers==2.4.0 \
    addict==2.4.0 attrdict==2.0.1 einops==0.8.2
install swift --no-deps ms-swift==4.6.0
install factory torch==2.13.0 transformers==5.6.0 datasets==4.0.0 peft==0.18.1 trl==0.24.0 accelerate==1.11.0 \
    pillow==13.0.0 omegaconf==2.4.0
install factory --no-deps llamafactory==0.9.5
touch "$work/torchaudio.py" # imported, and called for sound alone
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
export MODELSCOPE_CACHE="$work/ms" MODELSCOPE_LOG_LEVEL=40 LOG_LEVEL=ERROR
export PYTHONPATH="$work"
cd "$work"

# One model folder and one file of samples for the three
"$work/trl/bin/python" - <<'PY'
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
core = Tokenizer(models.BPE(letters, merges=[]))
core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=4096, **special)
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
tokenizer.save_pretrained("model")
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=len(tokenizer))).save_pretrained("model")
samples = (
    [("user", "Look at"), ("user", "the left one."), ("assistant", "red")],
    [("user", "Look at the left one."), ("assistant", "red")],
)
rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in samples]
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
tags = {f"{tag}_tag": tag for tag in ("role", "content", "user", "assistant", "system")}
form = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
Path("dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl"} | form}))
PY

"$work/trl/bin/python" - <<'PY'
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

samples = load_dataset("json", data_files="rows.jsonl", split="train")
arguments = SFTConfig("out", use_cpu=True, bf16=False, report_to="none")
trainer = SFTTrainer("model", args=arguments, train_dataset=samples)
text, _ = [trainer.processing_class.decode(sample["input_ids"]) for sample in trainer.train_dataset]
print("trl", repr(text))
assert "user\nLook at<|im_end|>\n<|im_start|>user\nthe left one.<|im_end|>" in text
PY

"$work/swift/bin/python" - <<'PY'
from swift.dataset import load_dataset
from swift.model import get_processor
from swift.template import get_template

template = get_template(get_processor("model", model_type="qwen2"), template_type="chatml")
template.set_mode("train")
samples, _ = load_dataset("rows.jsonl", strict=True)
text, _ = [template.tokenizer.decode(template.encode(dict(sample))["input_ids"]) for sample in samples]
print("ms-swift", repr(text))
assert "user\nLook atthe left one.<|im_end|>" in text
PY

"$work/factory/bin/python" - <<'PY' > "$work/said"
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

model, data, training, _, _ = get_train_args({
    "model_name_or_path": "model", "template": "qwen", "dataset": "rows", "dataset_dir": ".", "stage": "sft",
    "do_train": True, "output_dir": "out", "overwrite_cache": True, "use_cpu": True, "report_to": "none",
})
both = load_tokenizer(model)
template = get_template_and_fix_tokenizer(both["tokenizer"], data)
samples = get_dataset(template, model, data, training, stage="sft", **both)["train_dataset"]
print("llamafactory", len(samples), "sample(s) of 2")
assert len(samples) == 1
PY
grep "Skipping this abnormal example\|of 2" "$work/said"
