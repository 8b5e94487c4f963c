#!/usr/bin/env bash
# torch: within one autocast region, a model that is given other weights answers with a mixture of both
#
# Versions: torch 2.13.0, transformers 5.24.0, peft 0.21.2.
# Autocast keeps the bf16 copy of each fp32 weight until the region ends, by the tensor and not by what it holds. So where
# one region compares two checkpoints (`load_state_dict` between two passes), an average of weights with the last ones, or
# a model before and after a step, the second pass takes the matrices from the first. Weights that autocast does not cast,
# norms and embeddings, are the new ones: what comes out is neither model. `torch.no_grad()` and `eval()` change nothing;
# what decides is whether the weights require a gradient, which they do as they are loaded. After
# `model.requires_grad_(False)` both passes are right. PEFT's `merge_adapter()` writes into the base weights: where those
# require a gradient, the merged model in the same region is the base model, without its adapter.
#
# Output seen (distance of the logits, relative):
#   reloaded, weights trainable: 1.4 from what it should be, 1.3 from the one before
#   reloaded, weights frozen: 0 from what it should be, 1.4 from the one before
#   merged, weights trainable: 1.4 from what it should be, 0 from the one before
#   merged, weights frozen: 0.013 from what it should be, 1.4 from the one before
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 peft==0.21.2
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

"$work/env/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
ids = torch.randint(4, 60, (2, 16), generator=torch.Generator().manual_seed(0))
region = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731


def drawn(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64, pad_token_id=0)).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=ids).logits.float()


def alone(model) -> torch.Tensor:
    with region():
        return logits(model)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def reloaded(frozen: bool) -> tuple[float, float]:
    """Of the second of two checkpoints, loaded within a region: from its own logits, and from the first's."""
    model = drawn(0).requires_grad_(not frozen)
    with region():
        first = logits(model)
        model.load_state_dict(drawn(1).state_dict())
        second = logits(model)
    return distance(second, alone(drawn(1))), distance(second, first)


def merged(frozen: bool) -> tuple[float, float]:
    """Of a merged model, in the region that ran it before: from the adapted model's logits, and from the base's."""
    model = get_peft_model(drawn(0), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    if not frozen:
        model.requires_grad_(True)
    with region():
        adapted = logits(model)
        with model.disable_adapter():
            base = logits(model)
        model.merge_adapter()
        together = logits(model)
    return distance(together, adapted), distance(together, base)


found = {(work.__name__, frozen): work(frozen) for work in (reloaded, merged) for frozen in (False, True)}
for (name, frozen), (own, other) in found.items():
    print(f"{name}, weights {'frozen' if frozen else 'trainable'}: {own:.2g} from what it should be, {other:.2g} from the one before")
assert min(found["reloaded", False]) > 0.1 and found["reloaded", True][0] == 0
assert found["merged", False][0] > 0.5 and found["merged", False][1] == 0
assert found["merged", True][0] < 0.05 < found["merged", True][1]
PY
