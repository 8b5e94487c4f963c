#!/usr/bin/env bash
# transformers: LlavaProcessor's token count from image sizes reads `crop_size`, whether it crops or not
#
# Versions: transformers 5.24.0.
# `processor._get_num_multimodal_tokens(image_sizes)` is what serving code asks for the number of image tokens without
# decoding an image. LLaVA's answers from `image_processor.crop_size` alone. With `do_center_crop=False`, a setting
# that a checkpoint may have, the crop size is a default of 224 x 224 that nothing else reads: 256 tokens are
# promised, `processor(...)` writes 576 for a model of 336 pixels. With an image processor that has no crop size at
# all, SigLIP, it is a TypeError. With cropping on, the two agree.
#
# Output seen:
#   CLIP, cropping:    promised 576, written 576
#   CLIP, no cropping: promised 256, written 576
#   SigLIP:            TypeError, written 729
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=$(command -v uv) || { python3 -m venv "$work/uv" && "$work/uv/bin/pip" install --quiet uv==0.13.9 && uv="$work/uv/bin/uv"; }
"$uv" venv --quiet --python "$(command -v python3)" "$work/env"
install() { "$uv" pip install --quiet --python "$work/env/bin/python" ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"; }
install torch==2.13.0 transformers==5.24.0 pillow==13.0.0
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1

"$work/env/bin/python" - <<'PY'
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast, SiglipImageProcessorPil

core = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1, "What": 2}, unk_token="<unk>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", extra_special_tokens=["<image>"])
photograph = Image.new("RGB", (640, 480), "red")


def counts(images, **options) -> tuple[int | str, int]:
    """Tokens of a photograph, as promised from its size and as written."""
    processor = LlavaProcessor(images, tokenizer, image_token="<image>", patch_size=14, **options)
    written = processor(text=["<image> What"], images=[[photograph]])["input_ids"][0].count(1)
    try:
        promised = processor._get_num_multimodal_tokens(image_sizes=[(480, 640)])["num_image_tokens"][0]
    except TypeError:
        promised = "TypeError"
    return promised, written


square = {"height": 336, "width": 336}
clip = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
found = {
    "CLIP, cropping": counts(CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=square), **clip),
    "CLIP, no cropping": counts(CLIPImageProcessorPil(size=square, do_center_crop=False), **clip),
    "SigLIP": counts(
        SiglipImageProcessorPil(size={"height": 384, "width": 384}),
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
    ),
}
for name, (promised, written) in found.items():
    print(f"{name}: promised {promised}, written {written}")
assert found == {"CLIP, cropping": (576, 576), "CLIP, no cropping": (256, 576), "SigLIP": ("TypeError", 729)}
PY
