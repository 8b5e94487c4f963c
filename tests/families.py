"""Tiny models of every vision-language family of transformers that can be built here, and inputs for them by hand.

What a processor would do is done by few lines a family: pixels are random by an image's bytes, tokens are characters.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import transformers
from family_changes import CHANGES
from family_configs import tiny
from family_pixels import (
    Images,
    Pixels,
    Rows,
    by_sample,
    coded,
    crossed,
    listed,
    merging,
    patches,
    pooled,
    raw,
    sized,
    squares,
    strips,
    tiled,
    two_sizes,
)
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from ost.data import Sample
from ost.encoding import IGNORE, Batch

Marks = Callable[[PreTrainedModel, Batch, Rows], Batch]


@dataclass
class Family:
    """A tiny model, and batches for it."""

    model: PreTrainedModel
    pixels: Pixels | None = None
    marks: Marks | None = None
    place: int = 0
    """The token that stands for a piece of an image."""
    count: Callable[[bytes], int] | None = None
    """Pieces of an image, where its features do not tell."""

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Samples padded on the right, with labels on their answers."""
        rows = [[1, *self._places(sample.images), *_tokens(sample.question), 5] for sample in samples]
        answers = [[*_tokens(sample.answer), 2] for sample in samples]
        length = max(len(row) + len(answer) for row, answer in zip(rows, answers, strict=True))
        batch = {name: torch.zeros(len(rows), length, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
        for at, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            end = len(row) + len(answer)
            batch["input_ids"][at, :end] = torch.tensor(row + answer)
            batch["attention_mask"][at, :end] = 1
            batch["labels"][at, len(row) : end] = torch.tensor(answer)
        images = [sample.images for sample in samples]
        if any(images) and self.pixels:
            batch |= self.pixels(self.model, images)
        if self.marks:
            batch |= self.marks(self.model, batch, images)
        dtype = self.model.dtype
        return {name: own.to(dtype) if own.is_floating_point() else own for name, own in batch.items()}

    def _places(self, images: Images) -> list[int]:
        return [token for image in images for token in (6, *[self.place] * self._pieces(image), 7)]

    def _pieces(self, image: bytes) -> int:
        if self.count:
            return self.count(image)
        encode = self.model.base_model.get_image_features
        known = inspect.signature(encode).parameters
        given = {name: own for name, own in self.pixels(self.model, [[image]]).items() if name in known}
        with torch.no_grad():
            found = encode(
                **{name: own.to(self.model.dtype) if own.is_floating_point() else own for name, own in given.items()}
            )
        pooled = found.deepstack_features[0][1] if found.pooler_output is None else found.pooler_output
        return sum(
            own.reshape(-1, own.shape[-1]).shape[0]
            for own in (pooled if isinstance(pooled, list | tuple) else [pooled])
        )


def build(name: str) -> Family:
    """A family by the name of its configuration, in float32, its norms and biases random; `+` parts off a variant."""
    kind, _, variant = name.partition("+")
    known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind) or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    config = tiny(kind, CHANGES.get(kind, {}) | VARIANTS.get(name, {}))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, known)(config).eval()
        for weight in model.parameters():
            if weight.dim() <= 1:
                weight.add_(0.05 * torch.randn_like(weight))
            elif not weight.any():
                weight.normal_(0, 0.05)
    if kind not in INPUTS:
        return Family(model)
    pixels, marks = INPUTS[kind]
    place = getattr(config, "image_token_id", None) or getattr(config, "image_patch_id", 300)
    return Family(model, pixels, None if variant == "unmarked" else marks, PLACES.get(kind, place), COUNTS.get(kind))


def _tokens(text: str) -> list[int]:
    return [20 + (ord(character) * 7) % 200 for character in text]


# --- marks ------------------------------------------------------------------------------------------------------------


def _kinds(*names: str) -> Marks:
    """1 where a piece of an image stands."""

    def marks(model: PreTrainedModel, batch: Batch, rows: Rows) -> Batch:
        config = model.config
        token = getattr(config, "image_token_id", None) or config.image_patch_id
        return dict.fromkeys(names, (batch["input_ids"] == token).long())

    return marks


def _answers(model: PreTrainedModel, batch: Batch, rows: Rows) -> Batch:
    """1 where an answer stands."""
    return {"token_type_ids": (batch["labels"] != IGNORE).long()}


def _crosses(model: PreTrainedModel, batch: Batch, rows: Rows) -> Batch:
    """Which images, and tiles, a token sees: those before it."""
    if "pixel_values" not in batch:
        return {}
    tiles = batch["aspect_ratio_mask"]
    mask = torch.zeros(*batch["input_ids"].shape, *tiles.shape[1:], dtype=torch.long)
    for at, images in enumerate(rows):
        places = (batch["input_ids"][at] == model.config.image_token_id).nonzero().flatten().tolist()
        for number, place in enumerate(places[: len(images)]):
            mask[at, place:, number] = tiles[at, number]
    return {"cross_attention_mask": mask}


_KINDS = _kinds("mm_token_type_ids")
INPUTS: dict[str, tuple[Pixels, Marks | None]] = {
    "aria": (squares(), None),
    "chameleon": (squares(), None),
    "deepseek_ocr2": (squares(64), None),
    "deepseek_vl_hybrid": (two_sizes, None),
    "emu3": (coded, None),
    "ernie4_5_vl_moe": (patches(), _kinds("mm_token_type_ids", "moe_mm_token_type_ids")),
    "fuyu": (raw, None),
    "gemma3": (squares(), _kinds("token_type_ids")),
    "gemma4": (listed, _KINDS),
    "gemma4_unified": (listed, _KINDS),
    "granite_docling": (by_sample(torch.bool, whole=False), None),
    "hunyuan_vl": (patches((192,)), _KINDS),
    "kimi_k25": (patches((3, 8, 8)), None),
    "lfm2_vl": (listed, None),
    "minicpmv4_7": (strips, _KINDS),
    "mllama": (crossed, _crosses),
    "molmo2": (pooled, _KINDS),
    "nemotron_h_omni": (patches((192,), "image_grid_hw"), None),
    "paddleocr_vl": (patches((3, 8, 8)), _KINDS),
    "paligemma": (squares(), _answers),
    "shieldgemma2": (squares(), _kinds("token_type_ids")),
    "unlimited_ocr": (squares(64), None),
    "video_llama_3": (merging, None),
    "video_llava": (squares(names=("pixel_values_images",)), None),
}
for _names, _inputs in (
    (
        "llava vipllava aya_vision cohere2_vision internvl got_ocr2 pp_chart2table deepseek_vl qianfan_ocr janus ovis2 "
        "llama4 step3p7",
        (squares(), None),
    ),
    (
        "qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe qwen3_5 qwen3_5_moe qwen4_exp cosmos3_edge cosmos3_omni glm4v "
        "glm4v_moe glm46v glmga glm_ocr glm5_next cohere_compass hy_v4_vl",
        (patches(), _KINDS),
    ),
    (
        "exaone4_5 hyperclovax_vision_v2 minimax_m3_vl qwen2_5_omni_thinker qwen3_omni_moe_thinker lfm3_vl dots3_note",
        (patches(), None),
    ),
    ("muse_glimmer muse_spark", (patches((384,)), None)),
    ("inkling2 inkling2_loop", (patches((16, 16, 3), grids=((2, 2), (2, 3), (3, 2), (1, 2))), None)),
    ("mistral3 lighton_ocr mistral_large4", (sized, None)),
    ("llava_next llava_next_video llava_onevision granite4_vision", (tiled, None)),
    ("idefics2 idefics3 smolvlm", (by_sample(), None)),
    ("minicpmv4_6 minicpm_ocr", (strips, None)),
):
    INPUTS |= dict.fromkeys(_names.split(), _inputs)

PLACES = {"chameleon": 300, "emu3": 300}
COUNTS: dict[str, Callable[[bytes], int]] = {
    "chameleon": lambda image: 256,
    "fuyu": lambda image: 4,
    "llama4": lambda image: 4,
    "mllama": lambda image: 1,
    "video_llava": lambda image: 16,
}
VARIANTS: dict[str, dict] = {
    "gemma4+shared": {
        "text_config": {
            "num_kv_shared_layers": 2,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        }
    }
}
