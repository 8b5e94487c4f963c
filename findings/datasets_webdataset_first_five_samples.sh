#!/usr/bin/env bash
# datasets: of a WebDataset tar, what the first five samples do not have is dropped from all others, images too
#
# Versions: datasets 5.2.0, beside webdataset 1.0.2.
# `load_dataset("webdataset")` takes its columns from the first five samples of the first tar. Members of later
# samples that are no such column are left out without a word: the second image of a two-image sample behind five one-
# image samples, the only image of a sample behind five text-only ones, and keys of the JSON. If the first five differ
# among themselves the whole archive is refused as no WebDataset. So the order of the samples decides what is read,
# and a shuffled mixed pool is either refused or loses images. `webdataset` itself reads all of it.
#
# Output seen:
#   one image x 6, then two images: datasets sees 1 image of the last sample, webdataset 2
#   text x 6, then one image:       datasets sees 0 images of the last sample, webdataset 1
#   one, two, none, ...:            ValueError: The TAR archives of the dataset should be in WebDataset format, but ...
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install datasets==5.2.0 webdataset==1.0.2 pillow==13.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

cd "$work"
"$work/env/bin/python" - <<'PY'
import io
import json
import tarfile

from datasets import load_dataset
from PIL import Image
from webdataset import WebDataset

buffer = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(buffer, "PNG")


def write(name: str, counts: list[int]) -> str:
    """A tar of samples with so many images each."""
    with tarfile.open(f"{name}.tar", "w") as tar:
        for key, count in enumerate(counts):
            record = {"answer": "red"} | ({"note": "the last"} if key == len(counts) - 1 else {})
            members = {f"{n}.png": buffer.getvalue() for n in range(count)} | {"json": json.dumps(record).encode()}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{key:03}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return f"{name}.tar"


def images(sample: dict) -> int:
    return sum(value is not None for name, value in sample.items() if name.endswith(".png"))


for name, counts, seen in (("growing", [1] * 6 + [2], 1), ("texts_first", [0] * 6 + [1], 0)):
    path = write(name, counts)
    theirs = list(load_dataset("webdataset", data_files=path, split="train"))
    own = list(WebDataset(path, shardshuffle=False))
    print(f"{counts}: of the last sample datasets sees {images(theirs[-1])} images, webdataset {images(own[-1])}")
    assert len(theirs) == len(own) == len(counts)
    assert images(theirs[-1]) == seen and images(own[-1]) == counts[-1]
    assert theirs[-1]["json"] == {"answer": "red"} and json.loads(own[-1]["json"])["note"] == "the last"

path = write("mixed", [1, 2, 0, 1, 1, 1])
assert [images(sample) for sample in WebDataset(path, shardshuffle=False)] == [1, 2, 0, 1, 1, 1]
try:
    load_dataset("webdataset", data_files=path, split="train")
    raise AssertionError("mixed samples are read now")
except ValueError as error:
    print(f"mixed: ValueError: {error}")
    assert "should be in WebDataset format" in str(error)
PY
