"""What ms-swift makes of an exported folder, in ms-swift's own environment: as JSON, the samples as its template
encodes them, those that its reader replaces by others, and the loss of a step.

    python load_with_ms_swift.py FOLDER CHECKPOINT

stands for `cd FOLDER && swift sft sft.yaml --model CHECKPOINT …`.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import version

from PIL import ImageStat
from swift.cli.main import parse_yaml_args
from swift.pipelines.train.sft import SwiftSft


def main(folder: str, checkpoint: str) -> dict:
    os.chdir(folder)
    with tempfile.TemporaryDirectory() as out:
        # A CPU's settings, the samples in order, and no look at the hub; the rest comes from the file.
        flags = (
            f"--model {checkpoint} --model_type llava1_5_hf --output_dir {out} --tuner_type full --torch_dtype float32"
            " --use_cpu true --gradient_checkpointing false --max_steps 1 --report_to none --save_strategy no"
            " --check_model false --dataset_shuffle false"
        )
        arguments = ["sft.yaml", *flags.split()]
        parse_yaml_args(arguments)
        run = SwiftSft(arguments)
        samples, _ = run.args.load_dataset()
        rows, replaced = [], {}
        for n, sample in enumerate(samples):
            try:
                rows.append(seen(run.template, sample))
            except Exception as error:  # its own reader draws another sample in place of this one, whatever is wrong
                replaced[n] = f"{type(error).__name__}: {error}"
        loss = run.run()["log_history"][-1]["train_loss"]
    return {
        "client": f"ms-swift {version('ms-swift')}",
        "samples": len(rows),
        "replaced": replaced,
        "rows": rows,
        "loss": loss,
    }


def seen(template, sample: dict) -> dict:
    """A sample as the template encodes it."""
    encoded = template.encode(dict(sample))
    return {
        "images": [looks(template._load_image(image, load_images=True)) for image in sample.get("images") or []],
        "text": template.tokenizer.decode(encoded["input_ids"]),
        "tokens": len(encoded["input_ids"]),
        "learned": template.tokenizer.decode([token for token in encoded["labels"] if token != -100]),
    }


def looks(image) -> dict:
    """An image's size, and its mean colour."""
    return {"size": image.size, "colour": [round(mean) for mean in ImageStat.Stat(image).mean]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
