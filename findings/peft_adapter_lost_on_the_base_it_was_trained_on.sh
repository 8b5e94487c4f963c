#!/usr/bin/env bash
# PEFT: an adapter of Unlimited-OCR, DeepSeek-OCR 2 or Mistral Large 4 doesn't come back on the base it was trained on
#
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0.
# `save_pretrained` names the adapter's weights as the model in memory does, and nothing is wrong with that file. While
# loading, PEFT takes them for names of an original checkpoint and renames them by the rules transformers has for those.
# Most rules leave alone what has its new name already. Those of three families do not: `layers.` becomes
# `language_model.layers.` a second time, `shared_experts.` becomes `mlp.shared_experts.` once more. The loader of whole
# models sees that a name is the model's own and undoes the renaming; PEFT's does so only where the new name is an
# ending of the old. So both OCR models answer as their base does, and Mistral Large 4 loses its shared experts.
# `PeftModel.from_pretrained` gives a warning that lists missing keys. `load_adapter` gives none, and this is what the
# Trainer calls to resume: it goes on from a fresh adapter, with the old optimizer state and step, without a word.
#
# Output seen (LoRA on the text decoder's feed-forward and output projections; came back = saved and loaded are equal):
#   LlavaForConditionalGeneration           16 of 16 came back · warnings 0, load_adapter 0 · as trained
#   UnlimitedOcrForConditionalGeneration     0 of 16 came back · warnings 1, load_adapter 0 · as the base
#   DeepseekOcr2ForConditionalGeneration     0 of 16 came back · warnings 1, load_adapter 0 · as the base
#   MistralLarge4ForConditionalGeneration   10 of 16 came back · warnings 1, load_adapter 0 · neither
#   the Trainer resumes at step 2, warnings 0: Llava 16 of 16, UnlimitedOcr 0 of 16
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
"$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} \
    torch==2.13.0 transformers==5.24.0 peft==0.21.2 accelerate==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" TQDM_DISABLE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
cd "$work"

"$work/env/bin/python" - <<'PY'
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

transformers.logging.disable_progress_bar()
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SIZES | {"num_key_value_heads": 4, "head_dim": 8, "vocab_size": 100, "pad_token_id": 0}
EXPERTS = TEXT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32}
EXPERTS |= {"n_group": 1, "topk_group": 1, "mlp_layer_types": ["dense", "sparse"]}
RANKS = {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
RANKS |= {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 64}
TOWER = SIZES | {"image_size": 32, "patch_size": 8}
SAM = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 64, "image_size": 64, "patch_size": 4}
SAM |= {"output_channels": 16, "downsample_channels": [24, 32], "global_attn_indexes": [1], "window_size": 4}
FAMILIES = {
    "Llava": {"text_config": TEXT | {"model_type": "llama"}, "vision_config": TOWER | {"model_type": "clip_vision_model"}},
    "UnlimitedOcr": {"text_config": EXPERTS, "vision_config": {"sam_config": SAM, "encoder_config": TOWER}},
    "DeepseekOcr2": {
        "text_config": EXPERTS, "vision_config": {"sam_config": SAM, "encoder_config": SIZES | {"num_key_value_heads": 4}}
    },
    "MistralLarge4": {"text_config": EXPERTS | RANKS, "vision_config": TOWER | {"head_dim": 8, "model_type": "pixtral"}},
}
LAYERS = {"r": 2, "target_modules": r".*language_model.*\.(o_proj|gate_proj|up_proj|down_proj)"}
IDS = torch.arange(4, 20)[None]
ROWS = [{"input_ids": IDS[0], "labels": IDS[0]}] * 8


def adapter(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if ".lora_" in name}


def equal(one: dict, other: dict) -> int:
    assert one.keys() == other.keys()
    return sum(torch.equal(one[name], other[name]) for name in one)


def warned(call) -> tuple[object, int]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = call()
    return found, sum(" missing " in str(one.message) or " unexpected " in str(one.message) for one in seen)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


found, resumed = {}, {}
for family, parts in FAMILIES.items():
    kind = getattr(transformers, f"{family}ForConditionalGeneration")
    torch.manual_seed(0)
    kind(getattr(transformers, f"{family}Config")(**parts)).save_pretrained(f"{family}-base")
    plain = logits(kind.from_pretrained(f"{family}-base"))

    trained = get_peft_model(kind.from_pretrained(f"{family}-base"), LoraConfig(**LAYERS))
    for name, weight in trained.named_parameters():
        if ".lora_B." in name:  # as training would: a fresh adapter has zeros here and changes nothing
            torch.nn.init.normal_(weight)
    trained.save_pretrained(f"{family}-adapter")
    own = {name.replace(".default", "") for name in adapter(trained)}
    assert load_file(f"{family}-adapter/adapter_model.safetensors").keys() == own

    loaded, shouts = warned(lambda: PeftModel.from_pretrained(kind.from_pretrained(f"{family}-base"), f"{family}-adapter"))
    again = get_peft_model(kind.from_pretrained(f"{family}-base"), LoraConfig(**LAYERS))
    _, silent = warned(lambda: again.load_adapter(f"{family}-adapter", "default", is_trainable=True))
    back = equal(adapter(trained), adapter(loaded))
    assert equal(adapter(trained), adapter(again)) == back
    answers = logits(loaded)
    same = [name for name, of in (("as trained", logits(trained)), ("as the base", plain)) if torch.equal(answers, of)]
    found[family] = back, len(own), shouts, silent, (same or ["neither"])[0]
    print(
        f"{kind.__name__:<38}{back:>4} of {len(own)} came back · warnings {shouts}, load_adapter {silent} · {found[family][-1]}"
    )


class Begun(TrainerCallback):
    """What the adapter holds, and which step it is, as training begins."""

    def on_train_begin(self, args, state, control, model=None, **_):
        self.step, self.weights = state.global_step, adapter(model)


for family in ("Llava", "UnlimitedOcr"):
    kind = getattr(transformers, f"{family}ForConditionalGeneration")
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "learning_rate": 0.1, "save_steps": 2}
    settings |= {"logging_strategy": "no"}
    first = get_peft_model(kind.from_pretrained(f"{family}-base"), LoraConfig(**LAYERS))
    Trainer(first, TrainingArguments(f"{family}-run", max_steps=2, **settings), train_dataset=ROWS).train()
    begun = Begun()
    second = get_peft_model(kind.from_pretrained(f"{family}-base"), LoraConfig(**LAYERS))
    arguments = TrainingArguments(f"{family}-run", max_steps=3, **settings)
    trainer = Trainer(second, arguments, train_dataset=ROWS, callbacks=[begun])
    _, silent = warned(lambda: trainer.train(resume_from_checkpoint=True))
    resumed[family] = begun.step, silent, equal(adapter(first), begun.weights), len(begun.weights)
step, silent = resumed["Llava"][:2]
texts = [f"{family} {back} of {whole}" for family, (_, _, back, whole) in resumed.items()]
print(f"the Trainer resumes at step {step}, warnings {silent}: {', '.join(texts)}")

assert found == {
    "Llava": (16, 16, 0, 0, "as trained"),
    "UnlimitedOcr": (0, 16, 1, 0, "as the base"),
    "DeepseekOcr2": (0, 16, 1, 0, "as the base"),
    "MistralLarge4": (10, 16, 1, 0, "neither"),
}, found
assert resumed == {"Llava": (2, 0, 16, 16), "UnlimitedOcr": (2, 0, 0, 16)}, resumed
PY
