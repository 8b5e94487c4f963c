#!/usr/bin/env bash
# TRL: `assistant_only_loss=True` on Qwen3.5 trains an empty <think> block in front of every answer of a conversation
#
# Versions: trl 1.16.0 with transformers 5.24.0; Qwen3.5's chat template as published (in TRL's wheel).
# That option needs {% generation %} marks. Where a template has none and TRL knows it, TRL takes one of its own in
# its place, without a word. For Qwen3.5 and 3.6 the two differ in more than marks: the model's own template prints an
# (empty) thinking block before the last answer alone; TRL's prints one before each, and the block is learned as a
# part of the answer. So the same messages have other tokens than with the option off, and other ones than at
# inference. Qwen3-VL's two templates agree.
#
# Output seen (two rounds, "b" and "d" the answers; what is learned is between the bars):
#   own  ...assistant\nb<|im_end|>...assistant\n<think>\n\n</think>\n\nd<|im_end|>
#   TRL  |<think>\n\n</think>\n\nb<|im_end|>\n| |<think>\n\n</think>\n\nd<|im_end|>\n|
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.24.0 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 jinja2==3.1.6
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

"$work/env/bin/python" - <<'PY'
from importlib.metadata import distribution
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl.chat_template_utils import get_training_chat_template

letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
core = Tokenizer(models.BPE(letters, merges=[]))
core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", extra_special_tokens=["<think>", "</think>"])
folder = Path(distribution("trl").locate_file("trl/chat_templates"))
rounds = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in rounds]


def both(name: str) -> tuple[str, str, list[str]]:
    """Its own rendering, TRL's for training, and the stretches that TRL has learned."""
    tokenizer.chat_template = (folder / f"{name}.jinja").read_text()
    training = get_training_chat_template(tokenizer)
    own = tokenizer.apply_chat_template(messages, tokenize=False)
    swapped = tokenizer.apply_chat_template(messages, chat_template=training, tokenize=False)
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=training, return_dict=True, return_assistant_tokens_mask=True
    )
    learned, before = [], 0
    for token, inside in zip(encoded["input_ids"], encoded["assistant_masks"]):
        if inside and not before:
            learned.append([])
        if inside:
            learned[-1].append(token)
        before = inside
    return own, swapped, [tokenizer.decode(stretch) for stretch in learned]


own, swapped, learned = both("qwen3_5_nothink")
print("own", repr(own))
print("TRL", repr(swapped))
print("learned", learned)
block = "<think>\n\n</think>\n\n"
assert own.count(block) == 1 and f"{block}d<|im_end|>" in own
assert swapped.count(block) == 2
assert learned == [f"{block}b<|im_end|>\n", f"{block}d<|im_end|>\n"]
own, swapped, _ = both("qwen3_6")
assert own.count(block) == 1 and swapped.count(block) == 2
own, swapped, learned = both("qwen3_vl")
assert own == swapped and learned == ["b<|im_end|>\n", "d<|im_end|>\n"]
PY
