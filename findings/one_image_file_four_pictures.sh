#!/usr/bin/env bash
# One image file is another picture by trainer: turned or not, black for transparent, white for 16 bits
#
# Versions: datasets 5.2.0 (TRL), ms-swift 4.6.0, llamafactory 0.9.5, webdataset 1.0.2; Pillow 13.0.0.
# A phone's JPEG stores its pixels lying and says so in EXIF. `datasets`' Image turns it, and so does transformers'
# `load_image`, so TRL trains on what a person sees. ms-swift, LLaMA-Factory and webdataset open and convert: the
# picture lies on its side, and so do letters in it. A transparent PNG, which every page shows on white, is black in
# all of them, with a black drawing on it. A grey PNG of 16 bits (X-rays, depth) is cut at 255: a white square.
#
# Output seen (size and a pixel of each file; a person sees a tall red one, a white one, a grey one):
#   datasets     ((32, 64), (254, 0, 0)) ((64, 32), (0, 0, 0)) ((64, 32), (255, 255, 255))   load_image: the same
#   ms-swift     ((64, 32), (254, 0, 0)) ((64, 32), (0, 0, 0)) ((64, 32), (255, 255, 255))   the other two: the same
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
make_env() { "$uv" venv --quiet --python "$(command -v python3)" "$work/$1"; }
install() { "$uv" pip install --quiet --python "$work/$1/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "${@:2}"; }
make_env hub && make_env swift && make_env factory
install hub torch==2.13.0 transformers==5.24.0 datasets==5.2.0 webdataset==1.0.2 pillow==13.0.0
install swift torch==2.13.0 transformers==5.19.0 datasets==4.8.4 peft==0.20.0 trl==0.29.1 accelerate==1.15.0 \
    modelscope==1.40.2 pillow==13.0.0 json-repair==0.64.6 dacite==1.9.2 simplejson==4.3.0 sortedcontainers==2.4.0 \
    addict==2.4.0 attrdict==2.0.1 einops==0.8.2
install swift --no-deps ms-swift==4.6.0
install factory torch==2.13.0 transformers==5.6.0 datasets==4.0.0 peft==0.18.1 trl==0.24.0 accelerate==1.11.0 \
    pillow==13.0.0 omegaconf==2.4.0
install factory --no-deps llamafactory==0.9.5
touch "$work/torchaudio.py" # imported, and called for sound alone
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1
export MODELSCOPE_CACHE="$work/ms" MODELSCOPE_LOG_LEVEL=40 LOG_LEVEL=ERROR
export PYTHONPATH="$work"
cd "$work"

"$work/hub/bin/python" - <<'PY'
from pathlib import Path

from PIL import Image

lying = Image.Exif()
lying[0x0112] = 6 # "turn it right to see it"
Image.new("RGB", (64, 32), "red").save("1.jpg", exif=lying) # 32 wide, 64 high
Image.new("RGBA", (64, 32), (0, 0, 0, 0)).save("2.png") # white paper, nothing on it
Image.new("I;16", (64, 32), 128 * 257).save("3.png") # mid grey
# What each loader is asked: for the image that a trainer feeds to the model's image processor.
Path("ask.py").write_text("""
def tell(loader, images):
    found = [(image.size, image.convert("RGB").getpixel((3, 3))) for image in images]
    print(f"{loader:16}", *found)
    return found

BLACK, WHITE = ((64, 32), (0, 0, 0)), ((64, 32), (255, 255, 255))
UPRIGHT, SIDEWAYS = ((32, 64), (254, 0, 0)), ((64, 32), (254, 0, 0))
FILES = ["1.jpg", "2.png", "3.png"]
""")
PY

"$work/hub/bin/python" - <<'PY'
import tarfile

from ask import BLACK, FILES, SIDEWAYS, UPRIGHT, WHITE, tell
from datasets import Dataset, Image
from transformers.image_utils import load_image
from webdataset import WebDataset

samples = Dataset.from_dict({"image": FILES}).cast_column("image", Image())
assert tell("datasets", samples["image"]) == [UPRIGHT, BLACK, WHITE]
assert tell("load_image", map(load_image, FILES)) == [UPRIGHT, BLACK, WHITE]
with tarfile.open("all.tar", "w") as tar:
    for name in FILES:
        tar.add(name)
shown = WebDataset("all.tar", shardshuffle=False).decode("pil")
images = [sample.get("jpg") or sample.get("png") for sample in shown]
assert tell("webdataset", images) == [SIDEWAYS, BLACK, WHITE]
PY

"$work/swift/bin/python" - <<'PY'
from ask import BLACK, FILES, SIDEWAYS, WHITE, tell
from swift.template.vision_utils import load_image

assert tell("ms-swift", map(load_image, FILES)) == [SIDEWAYS, BLACK, WHITE]
PY

"$work/factory/bin/python" - <<'PY'
from ask import BLACK, FILES, SIDEWAYS, WHITE, tell
from llamafactory.data.mm_plugin import BasePlugin

plugin = BasePlugin(image_token="<image>", video_token=None, audio_token=None)
limits = {"image_max_pixels": 768 * 768, "image_min_pixels": 32 * 32} # its defaults
assert tell("llamafactory", plugin._regularize_images(FILES, **limits)["images"]) == [SIDEWAYS, BLACK, WHITE]
PY
