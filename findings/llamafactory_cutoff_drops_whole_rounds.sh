#!/usr/bin/env bash
# LLaMA-Factory: over `cutoff_len` a conversation loses whole rounds from its end, and the rest is cut inside
#
# Versions: llamafactory 0.9.5, transformers 5.6.0.
# Rounds are taken in order until `cutoff_len` (2048 by default) is full; what comes behind is left out, without a
# warning. The round that meets the limit is shortened so that its answer stays and its question loses its end. So of
# a document with three questions, one a round, what is trained on is a document without its end and the first answer:
# the same count of samples, fewer answers, an answer to a question that is no longer there.
#
# Output seen (first question of 600 letters and "WHO?", cutoff_len 300):
#   whole: learned 'one</s>two</s>three</s>', "WHO?" in the question
#   cut:   learned 'one</s>', 300 tokens, no "WHO?"
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.6.0 datasets==4.0.0 peft==0.18.1 trl==0.24.0 accelerate==1.11.0 \
    pillow==13.0.0 omegaconf==2.4.0
install --no-deps llamafactory==0.9.5
touch "$work/torchaudio.py" # imported, and called for sound alone
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
export PYTHONPATH="$work"

cd "$work"
"$work/env/bin/python" - <<'PY'
import contextlib
import io
import json
import logging
from pathlib import Path

# A tiny LLaVA with a tokenizer that spells letters
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
core = Tokenizer(models.BPE(letters, merges=[]))
core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
special = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "additional_special_tokens": ["<image>"]}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=4096, **special)
tokenizer.save_pretrained("model")
IMAGE = tokenizer.convert_tokens_to_ids("<image>")
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LlavaForConditionalGeneration(
    LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=8),
        text_config=LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=4096),
        image_token_index=IMAGE,
    )
).save_pretrained("model")
images = {
    "image_processor_type": "CLIPImageProcessor", "size": {"height": 32, "width": 32}, "do_center_crop": False,
    "do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_convert_rgb": True,
}
processor = {
    "processor_class": "LlavaProcessor", "patch_size": 8, "vision_feature_select_strategy": "default",
    "image_token": "<image>", "num_additional_image_tokens": 1,
}
Path("model/preprocessor_config.json").write_text(json.dumps(images | {"processor_class": "LlavaProcessor"}))
Path("model/processor_config.json").write_text(json.dumps(processor))

tags = {f"{tag}_tag": tag for tag in ("role", "content", "user", "assistant", "system")}
columns = {"messages": "messages", "images": "images"}
info = {"rows": {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}}
Path("dataset_info.json").write_text(json.dumps(info))

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

logging.disable(logging.WARNING)
said = ("a " * 300 + "WHO?", "one", "and then?", "two", "and then?", "three")
turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
Path("rows.jsonl").write_text(json.dumps({"messages": turns, "images": []}) + "\n")


def loaded(cutoff: int) -> tuple[int, str, str]:
    """Number of tokens, the text, and what of it is learned."""
    options = {
        "model_name_or_path": "model", "template": "llava", "dataset": "rows", "dataset_dir": ".", "stage": "sft",
        "do_train": True, "output_dir": "out", "overwrite_cache": True, "use_cpu": True, "report_to": "none",
        "cutoff_len": cutoff,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        model, data, training, _, _ = get_train_args(options)
        both = load_tokenizer(model)
        template = get_template_and_fix_tokenizer(both["tokenizer"], data)
        template.default_system = ""
        (sample,) = get_dataset(template, model, data, training, stage="sft", **both)["train_dataset"]
    learned = [label for label in sample["labels"] if label != -100]
    return len(sample["input_ids"]), both["tokenizer"].decode(sample["input_ids"]), both["tokenizer"].decode(learned)


for cutoff in (4096, 300):
    tokens, text, learned = loaded(cutoff)
    print(f"cutoff_len {cutoff}: {tokens} tokens, learned {learned!r}, the question's end is there: {'WHO?' in text}")
    whole = cutoff == 4096
    assert learned == ("one</s>two</s>three</s>" if whole else "one</s>")
    assert ("WHO?" in text) == whole and (whole or tokens == 300)
PY
