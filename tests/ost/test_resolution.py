"""Fewer tokens for an image: by a processor's own setting, measured, kept when it is saved, or refused."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from processors import FAMILIES
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

from ost.data import Sample, chat
from ost.encoding import IGNORE, Encoder
from ost.errors import ModelError
from ost.models import limit_image_tokens

LOWERED = {"qwen3_vl": 12, "idefics3": 12, "llava_next": 40, "ovis2": 80}
"""Families that have a setting, and a number of tokens that their images exceed without it."""
FIXED = {"llava": 16, "gemma3": 10, "deepseek_vl": 16, "janus": 18, "paligemma": 18}
"""Families of which every image takes as many, whatever its size."""


def asked(width: int, height: int) -> Sample:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return Sample((buffer.getvalue(),), chat("what?", "this", 1))


def image_tokens(encoder: Encoder, width: int, height: int) -> int:
    """Tokens of a true image, by what training gives beyond the text."""
    count = int(encoder.training([asked(width, height)])["attention_mask"].sum())
    small = int(encoder.training([asked(20, 20)])["attention_mask"].sum())
    return count - small + encoder.image_tokens([(20, 20)])[0]


SHAPES = [(1500, 1000), (1000, 1500), (2000, 250), (250, 2000), (700, 700), (64, 48), (1, 1)]


@pytest.mark.parametrize("name", LOWERED)
def test_no_image_takes_more_than_wanted(name):
    processor, most = FAMILIES[name](), LOWERED[name]
    assert max(image_tokens(Encoder(processor), *shape) for shape in SHAPES) > most
    taken = limit_image_tokens(processor, most)
    found = [image_tokens(Encoder(processor), *shape) for shape in SHAPES]
    assert max(found) <= taken <= most
    assert taken > most / 3, "more resolution went than had to"


@pytest.mark.parametrize("name", LOWERED)
def test_the_setting_is_saved_with_the_processor(name, tmp_path):
    processor = FAMILIES[name]()
    limit_image_tokens(processor, LOWERED[name])
    processor.save_pretrained(tmp_path)
    loaded = type(processor).from_pretrained(tmp_path)
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    for shape in SHAPES:
        ours, theirs = (Encoder(one).training([asked(*shape)]) for one in (processor, loaded))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_few_enough_already_stays_as_it_is(name):
    processor = FAMILIES[name]()
    before = processor.image_processor.to_dict()
    assert limit_image_tokens(processor, 100_000) < 100_000
    assert processor.image_processor.to_dict() == before


@pytest.mark.parametrize("name", FIXED)
def test_where_there_is_no_setting_that_is_said_and_nothing_changed(name):
    processor, fewest = FAMILIES[name](), FIXED[name]
    before = processor.image_processor.to_dict()
    assert limit_image_tokens(processor, fewest) == fewest
    with pytest.raises(
        ModelError, match=f"{type(processor).__name__} has no setting .* the fewest are {fewest}: raise"
    ):
        limit_image_tokens(processor, fewest - 1)
    assert processor.image_processor.to_dict() == before


def test_too_few_tokens_are_refused_and_nothing_changed():
    processor = FAMILIES["idefics3"]()
    before = processor.image_processor.to_dict()
    with pytest.raises(ModelError, match=r"brings every image to 3 tokens; the fewest are 7"):
        limit_image_tokens(processor, 3)
    assert processor.image_processor.to_dict() == before


def test_a_text_only_model_has_no_images_to_shrink(processor):
    with pytest.raises(ModelError, match=r"takes no images: leave data\.max_image_tokens out"):
        limit_image_tokens(processor.tokenizer, 10)


@settings(max_examples=12)
@given(most=st.integers(4, 60), width=st.integers(1, 900), height=st.integers(1, 900))
def test_any_number_of_tokens_bounds_any_image(most, width, height):
    width, height = max(width, height // 16 + 1), max(height, width // 16 + 1)
    processor = FAMILIES["qwen3_vl"]()
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 2**20}
    limit_image_tokens(processor, most)
    assert image_tokens(Encoder(processor), width, height) <= most


def test_a_photograph_fits_where_it_did_not(processor):
    """REPORTS 15, on the built-in model's processor: 4032 × 3024."""
    photograph = asked(4032, 3024)
    made = FAMILIES["qwen3_vl"]()
    made.image_processor.size = {"shortest_edge": 256, "longest_edge": 2**24}
    assert Encoder(made).measure(photograph, [(4032, 3024)]).tokens > 4096
    limit_image_tokens(made, 1024)
    measured = Encoder(made).measure(photograph, [(4032, 3024)])
    assert 900 < measured.tokens < 1024 + 60
    batch = Encoder(made).training([photograph])
    assert (int(batch["attention_mask"].sum()), int((batch["labels"] != IGNORE).sum())) == (
        measured.tokens,
        measured.learned,
    )


def test_a_model_that_keeps_a_copy_of_the_setting_gets_it_too():
    processor = FAMILIES["llava_next"]()
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = LlavaNextConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    limit_image_tokens(processor, 40, model.config)
    assert model.config.image_grid_pinpoints == processor.image_processor.image_grid_pinpoints == [[32, 32]]
    batch = Encoder(processor).training([asked(300, 90), asked(40, 40)])
    assert torch.isfinite(model(**batch).loss)
