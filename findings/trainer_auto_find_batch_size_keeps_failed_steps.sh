#!/usr/bin/env bash
# transformers: `auto_find_batch_size=True` starts again after an out-of-memory error, but with the weights of the try
#
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0.
# The Trainer takes a smaller batch where memory runs out, and begins its loop anew: step 0, a fresh optimizer, the
# learning rate from its start, the data from their start. The model is not put back: it keeps what the tries before
# taught it. A run where the longest sample does not fit therefore makes more optimizer steps than it reports, and sees
# the samples before that one once for each try. As a try takes 0.9 times the batch before, and not half of it, there
# are many. The log, `global_step`, the epoch and the schedule tell of the last try alone.
#
# Output seen (one epoch of 41 samples, batches of at most 8; only the longest sample does not fit more than three times):
#   optimizer steps told: 14, made: 45
#   batch sizes tried: 8, 7, 6, 5, 4, 3
#   distance from the start as each try began: 0.00, 0.70, 1.21, 1.74, 2.29, 2.90
#   times that samples were seen: 1 to 6
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

cd "$work"
"$work/env/bin/python" - <<'PY'
from collections import Counter

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LONG, SHORT, MEMORY = 60, 16, 180
seen = Counter()


class OnASmallCard(LlamaForCausalLM):
    """Has memory for a training batch of so many tokens, padding counted."""

    def forward(self, input_ids=None, number=None, **others):
        if self.training and input_ids.numel() > MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.training:
            seen.update(number.tolist())
        return super().forward(input_ids=input_ids, **others)


def sample(number: int, length: int) -> dict:
    ids = torch.randint(4, 60, (length,))
    return {"input_ids": ids, "labels": ids, "number": number}


def collate(rows: list[dict]) -> dict:
    pad = torch.nn.utils.rnn.pad_sequence
    batch = {name: pad([row[name] for row in rows], True, fill) for name, fill in (("input_ids", 0), ("labels", -100))}
    return batch | {"number": torch.tensor([row["number"] for row in rows])}


model = OnASmallCard(LlamaConfig(**sizes, vocab_size=64, pad_token_id=0))
start = {name: weight.clone() for name, weight in model.state_dict().items()}


class Notes(TrainerCallback):
    steps, tries = 0, []

    def on_step_end(self, *_, **__):
        Notes.steps += 1

    def on_train_begin(self, args, state, control, model, **_):
        moved = sum(float((weight - start[name]).norm() ** 2) for name, weight in model.state_dict().items()) ** 0.5
        Notes.tries.append((state.train_batch_size, moved))


arguments = TrainingArguments(
    "out", use_cpu=True, auto_find_batch_size=True, per_device_train_batch_size=8, num_train_epochs=1, learning_rate=1e-3,
    lr_scheduler_type="constant", remove_unused_columns=False, report_to="none", save_strategy="no", disable_tqdm=True,
)
data = [sample(number, SHORT) for number in range(40)] + [sample(40, LONG)]
told = Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[Notes()]).train().global_step
batches, distances = zip(*Notes.tries)
print(f"optimizer steps told: {told}, made: {Notes.steps}")
print("batch sizes tried:", ", ".join(map(str, batches)))
print("distance from the start as each try began:", ", ".join(f"{distance:.2f}" for distance in distances))
print(f"times that samples were seen: {min(seen.values())} to {max(seen.values())}")
assert Notes.steps > 2 * told, "a try's steps are taken back now"
assert distances[0] == 0 and all(before < after for before, after in zip(distances, distances[1:]))
assert batches[0] > batches[-1] and batches[1:3] == (7, 6)
assert max(seen.values()) > 2 > min(seen.values())
PY
