#!/usr/bin/env bash
# No one form of a message's content suits the chat templates that models are published with, and the wrong one is
# silent where it hurts: Qwen3 prints nothing of a list of text parts, Idefics3 and SmolVLM nothing of a plain string.
#
# Versions: transformers 5.24.0; the templates as published, in the wheel of trl 1.16.0.
# The same question and answer, once as strings and once as [{"type": "text", "text": ...}]:
#   right / nothing   Qwen3, Qwen3-Instruct-2507: question and answer vanish, the tags around them stay
#   right / literal   Gemma 1/2, Cohere2, LFM2, Llama 3.x, Nemotron 3: the list itself, as Python or JSON, is the text
#   right / raises    Cohere, DeepSeek, gpt-oss, Phi 3.x, Qwen2.5
#   nothing / right   Idefics3, SmolVLM: the other way round
#   raises / right    LLaVA-NeXT
#   right / right     Gemma 3/4, Qwen-VL, Qwen3.5 and later, GLM-4-MoE, LFM2.5
# A run on what Qwen3 or SmolVLM made of the wrong form learns to end its turn at once, and says nothing.
#
# Output seen: one line for each of these pairs, then
#   qwen3, parts: '<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n'
#   smolvlm, strings: '<|im_start|>User: <end_of_utterance>\nAssistant: <end_of_utterance>\n'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install transformers==5.24.0 jinja2==3.1.6
install --no-deps trl==1.16.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

"$work/env/bin/python" - <<'PY'
from importlib.metadata import distribution
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")))
tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
said = {"user": "QUESTION", "assistant": "ANSWER"}
strings = [{"role": role, "content": text} for role, text in said.items()]
parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said.items()]


def render(template: str, messages: list[dict]) -> str:
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)


def outcome(template: str, messages: list[dict]) -> str:
    try:
        got = render(template, messages)
    except Exception:
        return "raises"
    if "'text'" in got or '"text"' in got:
        return "literal"
    return "right" if "QUESTION" in got and "ANSWER" in got else "nothing" if "ANSWER" not in got else "half"


folder = Path(distribution("trl").locate_file("trl/chat_templates"))
templates = {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja")) if "_training" not in path.stem}
found: dict[tuple, list[str]] = {}
for name, template in templates.items():
    found.setdefault((outcome(template, strings), outcome(template, parts)), []).append(name)
for pair, names in sorted(found.items()):
    print(" / ".join(pair), ":", *names)
print("qwen3, parts:", repr(render(templates["qwen3"], parts)))
print("smolvlm, strings:", repr(render(templates["smolvlm"], strings)))

assert found["right", "nothing"] == ["qwen3", "qwen3_instruct_2507"]
assert found["nothing", "right"] == ["idefics3", "smolvlm"]
assert {"gemma", "lfm2", "llama3", "nemotron_3_nano"} <= set(found["right", "literal"])
assert {"cohere", "deepseekv3", "gptoss", "phi3", "qwen2_5"} <= set(found["right", "raises"])
assert found["raises", "right"] == ["llava_next"]
PY
