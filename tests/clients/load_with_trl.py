"""What TRL makes of an exported folder, in TRL's own environment: as JSON, the samples as its collator gives them
to the model, those that it cuts, and the loss of a step.

    python load_with_trl.py FOLDER CHECKPOINT

stands for `cd FOLDER && trl sft --config sft.yaml --model_name_or_path CHECKPOINT …`.
"""

import copy
import json
import os
import sys
import tempfile
from importlib.metadata import version

from PIL import ImageStat
from trl import DatasetMixtureConfig, SFTConfig, SFTTrainer, TrlParser, get_dataset


def main(folder: str, checkpoint: str) -> dict:
    os.chdir(folder)
    with tempfile.TemporaryDirectory() as out:
        # A CPU's settings; the data's own come from the file.
        flags = (
            f"--output_dir {out} --use_cpu --bf16 false --gradient_checkpointing false --max_steps 1 --report_to none"
        )
        given, mixture = TrlParser((SFTConfig, DatasetMixtureConfig)).parse_args_and_config(
            ["--config", "sft.yaml", *flags.split()]
        )
        endless = copy.deepcopy(given)
        endless.max_length = None
        samples = get_dataset(mixture)["train"]
        whole = seen(SFTTrainer(checkpoint, args=endless, train_dataset=samples))
        trainer = SFTTrainer(checkpoint, args=given, train_dataset=samples)
        rows = seen(trainer)
        trainer.train()
    return {
        "client": f"trl {version('trl')}",
        "samples": len(rows),
        "cut": [n for n, (row, full) in enumerate(zip(rows, whole, strict=True)) if row["tokens"] < full["tokens"]],
        "rows": rows,
        "loss": trainer.state.log_history[-1]["train_loss"],
    }


def seen(trainer: SFTTrainer) -> list[dict]:
    """The samples as the collator gives them to the model; samples without images are tokenized before it."""
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    rows = []
    for sample in trainer.train_dataset:
        batch = trainer.data_collator([dict(sample)])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        rows.append(
            {
                "images": [looks(image) for image in sample.get("images") or []],
                "text": tokenizer.decode(ids),
                "tokens": len(ids),
                "learned": tokenizer.decode(labels[labels != -100]),
            }
        )
    return rows


def looks(image) -> dict:
    """An image's size, and its mean colour as the image processor converts it."""
    return {"size": image.size, "colour": [round(mean) for mean in ImageStat.Stat(image.convert("RGB")).mean]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
