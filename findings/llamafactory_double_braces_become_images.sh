#!/usr/bin/env bash
# LLaMA-Factory: the text {{image}} in a question or an answer becomes an image token, and the run ends at that sample
#
# Versions: llamafactory 0.9.5, transformers 5.6.0.
# Its LLaVA plug-in first turns each <image> mark into {{image}} as often as the image has tokens, and then every
# {{image}} into the token. Whoever asks about a Jinja, Vue or Handlebars template, or has it in an answer, writes one
# of his own. The check that marks and images are equally many looks for <image> alone and passes, tokenizing passes,
# and so does training up to the step that draws the sample: "Image features and image tokens do not match". By then
# the others are learned. {{content}}, the name of the other slot, is harmless.
#
# Output seen:
#   'What does {{content}} print?' -> 0 image tokens; a step: loss 5.7 or so
#   'What does {{image}} print?'   -> 1 image token;  a step: ValueError: Image features and image tokens do not match
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
from llamafactory.train.tuner import run_exp

logging.disable(logging.WARNING)


def tried(text: str) -> tuple[int, str]:
    """Image tokens of a text-only sample, and how a training step on it ends."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "a variable"}]
    Path("rows.jsonl").write_text(json.dumps({"messages": turns, "images": []}) + "\n")
    options = {
        "model_name_or_path": "model", "template": "llava", "dataset": "rows", "dataset_dir": ".", "stage": "sft",
        "do_train": True, "finetuning_type": "full", "output_dir": f"out_{len(text)}", "overwrite_cache": True,
        "use_cpu": True, "max_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        model, data, training, tuning, _ = get_train_args(dict(options))
        both = load_tokenizer(model)
        template = get_template_and_fix_tokenizer(both["tokenizer"], data)
        sample = get_dataset(template, model, data, training, stage="sft", **both)["train_dataset"][0]
        try:
            run_exp(dict(options))
            ended = "trained"
        except ValueError as error:
            ended = f"ValueError: {error}"
    return sample["input_ids"].count(IMAGE), ended


for text, tokens, ended in (
    ("What does {{content}} print?", 0, "trained"),
    ("What does {{image}} print?", 1, "ValueError: Image features and image tokens do not match"),
):
    found = tried(text)
    print(repr(text), "->", found)
    assert found[0] == tokens and found[1].startswith(ended)
PY
