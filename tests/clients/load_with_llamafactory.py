"""What LLaMA-Factory makes of an exported folder, in its own environment: as JSON, the samples as it tokenizes them,
those that it cuts, and the loss of a step.

    python load_with_llamafactory.py FOLDER CHECKPOINT

stands for `cd FOLDER && llamafactory-cli train sft.yaml model_name_or_path=CHECKPOINT …`.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.train.tuner import run_exp
from PIL import ImageStat

ENDLESS = 1_000_000
"""A length that cuts nothing."""


def main(folder: str, checkpoint: str) -> dict:
    os.chdir(folder)
    with tempfile.TemporaryDirectory() as out:
        options = yaml.safe_load(Path("sft.yaml").read_text()) | {
            "model_name_or_path": checkpoint,
            "template": "llava",
            "output_dir": out,
            "finetuning_type": "full",
            "use_cpu": True,
            "max_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "overwrite_cache": True,
        }
        rows = [row for _, row in loaded(options)]
        whole = [row["tokens"] for _, row in loaded(options | {"cutoff_len": ENDLESS})]
        run_exp(dict(options))
        loss = json.loads(Path(out, "train_results.json").read_text())["train_loss"]
    return {
        "client": f"llamafactory {version('llamafactory')}",
        "samples": len(rows),
        "cut": [n for n, (row, tokens) in enumerate(zip(rows, whole, strict=True)) if row["tokens"] < tokens],
        "rows": rows,
        "loss": loss,
    }


def loaded(options: dict):
    """(position, sample) as its own loader gives it to the model."""
    model, data, training, tuning, _ = get_train_args(dict(options))
    both = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(both["tokenizer"], data)
    samples = get_dataset(template, model, data, training, stage=tuning.stage, **both)["train_dataset"]
    limits = {name: getattr(both["processor"], name) for name in ("image_max_pixels", "image_min_pixels")}
    for n, sample in enumerate(samples):
        images = template.mm_plugin._regularize_images(sample["images"] or [], **limits)["images"]
        yield (
            n,
            {
                "images": [looks(image) for image in images],
                "text": both["tokenizer"].decode(sample["input_ids"]),
                "tokens": len(sample["input_ids"]),
                "learned": both["tokenizer"].decode([token for token in sample["labels"] if token != -100]),
            },
        )


def looks(image) -> dict:
    """An image's size, and its mean colour."""
    return {"size": image.size, "colour": [round(mean) for mean in ImageStat.Stat(image).mean]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
