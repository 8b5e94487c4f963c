#!/usr/bin/env bash
# datasets: `to_parquet` writes the path of an image, not the image; `save_to_disk` writes the image
#
# Versions: datasets 5.2.0.
# A data set whose images were given as paths is written by `Dataset.to_parquet`. In the file each image is {"bytes":
# null, "path": "pictures/red.png"}: the path as it was given, from the folder that the process happened to stand in.
# The file has the right number of rows, the type Image, and a few hundred bytes. It loads anywhere; the first access
# to a row fails elsewhere, or takes another file of that name. `save_to_disk` takes the bytes in; so does
# `to_parquet` where images were given as bytes.
#
# Output seen:
#   to_parquet:   [{'bytes': None, 'path': 'pictures/red.png'}]
#   save_to_disk: [75]  bytes of an image inside
#   in another folder: FileNotFoundError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install datasets==5.2.0 pillow==13.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

cd "$work"
"$work/env/bin/python" - <<'PY'
import os
from pathlib import Path

import pyarrow.parquet
from datasets import Dataset, Features, Image, List, load_dataset, load_from_disk
from PIL import Image as Pillow

Path("pictures").mkdir()
Pillow.new("RGB", (8, 8), "red").save("pictures/red.png")
samples = Dataset.from_dict({"images": [["pictures/red.png"]]}, features=Features({"images": List(Image())}))
samples.to_parquet("samples.parquet")
samples.save_to_disk("samples")

stored = pyarrow.parquet.read_table("samples.parquet")["images"].to_pylist()[0]
saved = load_from_disk("samples").cast_column("images", List(Image(decode=False)))[0]["images"]
print("to_parquet:  ", stored)
print("save_to_disk:", [len(image["bytes"]) for image in saved], "bytes of an image inside")

written = Path("samples.parquet").resolve()
Path("elsewhere").mkdir()
os.chdir("elsewhere")
loaded = load_dataset("parquet", data_files=str(written), split="train")
assert len(loaded) == 1 and loaded.features == samples.features
try:
    loaded[0]
    print("in another folder: fine")
except FileNotFoundError:
    print("in another folder: FileNotFoundError")
    missing = True

content = saved[0]["bytes"]
given = Dataset.from_dict({"images": [[{"bytes": content, "path": None}]]}, features=samples.features)
given.to_parquet("given.parquet")
assert pyarrow.parquet.read_table("given.parquet")["images"].to_pylist()[0] == [{"bytes": content, "path": None}]
assert stored == [{"bytes": None, "path": "pictures/red.png"}]
assert all(image["bytes"] for image in saved)
assert missing
PY
