#!/usr/bin/env bash
# ms-swift: an assistant turn with `"loss": false` is not learned, but for its end token where the turn is the last
#
# Versions: ms-swift 4.6.0, transformers 5.19.0.
# `loss` on a message is how ms-swift's data says which answers are context. Inside a conversation it does what it
# says. On the last message the answer's own tokens are masked, and the template's suffix behind it is learned all the
# same: it is another piece of the template, and the mark belongs to the answer's piece. A sample that should teach
# nothing teaches to end the turn.
#
# Output seen (what is learned, ChatML template):
#   both learned:        'one<|im_end|>', 'two<|im_end|>'
#   first loss false:    'two<|im_end|>'
#   last loss false:     'one<|im_end|>', '<|im_end|>'
#   both loss false:     '<|im_end|>'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.19.0 datasets==4.8.4 peft==0.20.0 trl==0.29.1 accelerate==1.15.0 \
    modelscope==1.40.2 pillow==13.0.0 json-repair==0.64.6 dacite==1.9.2 simplejson==4.3.0 sortedcontainers==2.4.0 \
    addict==2.4.0 attrdict==2.0.1 einops==0.8.2
install --no-deps ms-swift==4.6.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
export MODELSCOPE_CACHE="$work/ms" MODELSCOPE_LOG_LEVEL=40 LOG_LEVEL=ERROR

cd "$work"
"$work/env/bin/python" - <<'PY'
# A tiny Qwen2 with a tokenizer that spells letters: enough to load a template with
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config

letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
core = Tokenizer(models.BPE(letters, merges=[]))
core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>"]}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=4096, **special)
tokenizer.save_pretrained("model")
Qwen2Config(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    architectures=["Qwen2ForCausalLM"],
).save_pretrained("model")

import json
from pathlib import Path

from swift.dataset import load_dataset
from swift.model import get_processor
from swift.template import get_template

template = get_template(get_processor("model", model_type="qwen2"), template_type="chatml")
template.set_mode("train")


def learned(first: bool, last: bool) -> list[str]:
    """The stretches of a two-round conversation that its labels name."""
    said = [("user", "a", None), ("assistant", "one", first), ("user", "b", None), ("assistant", "two", last)]
    turns = [{"role": role, "content": text} | ({} if loss is not False else {"loss": False}) for role, text, loss in said]
    Path("rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    samples, _ = load_dataset("rows.jsonl", strict=True, load_from_cache_file=False)
    labels = template.encode(dict(samples[0]))["labels"]
    text = "".join("\0" if label == -100 else template.tokenizer.decode([label]) for label in labels)
    return [stretch.strip() for stretch in text.split("\0") if stretch.strip()]


found = {(first, last): learned(first, last) for first in (True, False) for last in (True, False)}
for which, stretches in found.items():
    print("first, last learned:", which, stretches)
assert found[True, True] == ["one<|im_end|>", "two<|im_end|>"]
assert found[False, True] == ["two<|im_end|>"]
assert found[True, False] == ["one<|im_end|>", "<|im_end|>"]
assert found[False, False] == ["<|im_end|>"]
PY
