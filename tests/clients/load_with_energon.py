"""What Megatron-Energon makes of an exported folder of tars after its own `energon prepare`, in an
environment of its own: as JSON, the samples, and how many are lost.

    python load_with_energon.py FOLDER
"""

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    SampleDecoder,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_val_dataset,
    stateless,
)
from PIL import ImageStat


@edataclass
class Row(Sample):
    """A sample as a training loop gets it."""

    record: dict
    images: list


@stateless  # without this mark energon skips every sample, one by one
def cook(sample: dict) -> Row:
    """The record, and the images that it names, in order."""
    images = [sample[name] for name in sample["json"]["images"]]
    return Row(**basic_sample_keys(sample), record=sample["json"], images=images)


class Task(DefaultTaskEncoder):
    """Samples one by one, as they are cooked."""

    decoder = SampleDecoder(image_decode="pil")
    cookers = (Cooker(cook),)

    def batch(self, samples: list[Row]) -> Row:
        return samples[0]


def main(folder: str) -> dict:
    with tempfile.TemporaryDirectory() as prepared:  # energon writes its index beside the shards
        for shard in Path(folder).glob("*.tar"):
            shutil.copy(shard, prepared)
        command = "prepare . --non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset --num-workers 1"
        energon = Path(sys.executable).with_name("energon")
        subprocess.run([energon, *command.split()], cwd=prepared, check=True, stdout=sys.stderr)
        alone = WorkerConfig(rank=0, world_size=1, num_workers=0)
        samples = get_val_dataset(prepared, split_part="train", batch_size=1, task_encoder=Task(), worker_config=alone)
        rows = [{"images": [looks(image) for image in row.images], "record": row.record} for row in get_loader(samples)]
        counts = json.loads(Path(prepared, ".nv-meta", ".info.json").read_text())["shard_counts"]
    return {
        "client": f"energon {version('megatron-energon')}",
        "samples": len(rows),
        "dropped": sum(counts.values()) - len(rows),
        "rows": rows,
    }


def looks(image) -> dict:
    """An image's size, and its mean colour."""
    return {"size": image.size, "colour": [round(mean) for mean in ImageStat.Stat(image).mean]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
