"""What `webdataset` makes of an exported folder of tars, in an environment of its own: as JSON, the samples, and
how many are lost.

    python load_with_webdataset.py FOLDER
"""

import json
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from PIL import ImageStat
from webdataset import WebDataset


def main(folder: str) -> dict:
    shards = sorted(str(path) for path in Path(folder).glob("*.tar"))
    rows = [seen(sample) for sample in WebDataset(shards, shardshuffle=False).decode("pil")]
    written = sum(name.endswith(".json") for shard in shards for name in members(shard))
    return {
        "client": f"webdataset {version('webdataset')}",
        "samples": len(rows),
        "dropped": written - len(rows),
        "rows": rows,
    }


def members(shard: str) -> list[str]:
    """Names of the files in a tar."""
    with tarfile.open(shard) as tar:
        return tar.getnames()


def seen(sample: dict) -> dict:
    """A sample as a training loop gets it: its record, and the images that the record names, in order."""
    return {"images": [looks(sample[name]) for name in sample["json"]["images"]], "record": sample["json"]}


def looks(image) -> dict:
    """An image's size, and its mean colour."""
    return {"size": image.size, "colour": [round(mean) for mean in ImageStat.Stat(image).mean]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
