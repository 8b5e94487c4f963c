"""Every family of vision-language models that can be built here: scored rightly, or refused; none silently wrong.

Left out are those whose tiny form takes seconds (glm5_next), or needs timm (gemma3n with its tower, fast_vlm,
perception_lm), and those that write no answer behind a prompt.
"""

import functools
import io

import numpy as np
import pytest
import torch
from families import INPUTS, Family, build
from PIL import Image

from ost.data import Sample, chat
from ost.encoding import IGNORE
from ost.errors import ModelError
from ost.execution.losses import sample_losses
from ost.models import Checkpoint, in_float64
from ost.models.parts import language_modules
from ost.scoring.gradients.hooks import GradientHooks
from ost.scoring.gradients.layers import rule_for
from ost.scoring.passes.reuse import PassCache, PassReuse
from ost.scoring.passes.weights import moved_copy, scored_weights, untied
from ost.scoring.self_test import SelfTest, few_of, try_proxy

FAMILIES = sorted(set(INPUTS) - {"glm5_next"})
REFUSED = {"llama4": "a pass fails: AttributeError", "nemotron_h_omni": "names no output head"}
SCORED = [name for name in FAMILIES if name not in REFUSED]
ALONE = ("hunyuan_vl", "mllama")
"""Those whose losses depend on batch mates."""
IN_FP32 = ("inkling2", "inkling2_loop")
SLOW = ("gemma4_unified", "inkling2", "inkling2_loop", "qwen4_exp", "emu3")
TEXTS = {
    "llama": None,
    "gpt2": None,
    "gemma2": None,
    "gemma3n_text": None,
    "gemma4_text": None,
    "mixtral": None,
    "bamba": None,
    "falcon_h1": None,
    "glm_moe_dsa": None,
    "hy_v4": None,
    "zaya": None,
    "bert": "answer tokens that come later",
    "cpmant": "answer tokens that come later",
    "bart": "its own loss, which trainers use",
    "xlm": "answer tokens that come later",
    "prophetnet": "states of another form",
}


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def asked(images: tuple[int, ...], question: str, answer: str) -> Sample:
    return Sample(tuple(map(png, images)), chat(question, answer, len(images)))


FEW = (asked((1,), "what is it?", "a cat"), asked((2, 3), "which", "the left one"), asked((), "hi", "yes sir"))
MIXED = (*FEW, asked((1,), "how many legs does it have", "ok"), asked((2,), "colour?", "blue and red"))
WORDS = (FEW[2], asked((), "two and three, and seven makes?", "twelve!"), asked((), "which one", "the left one"))


@functools.cache
def family(name: str) -> Family:
    return build(name)


@functools.cache
def double(name: str) -> Family:
    own = build(name)
    own.model = own.model if name in IN_FP32 else in_float64(Checkpoint(own.model, None)).model
    return own


def tried(own: Family, layers: str, samples=FEW) -> SelfTest:
    return try_proxy(Checkpoint(own.model, None), own.encode, samples, layers)


@pytest.fixture(scope="module", autouse=True)
def _forgotten():
    yield
    family.cache_clear()
    double.cache_clear()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_proxy_of_any_family_is_scored_with_as_it_needs_or_refused(name):
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            tried(family(name), "last:1")
        return
    found = tried(family(name), "last:1")
    assert (found.one_at_a_time, found.shares) == (name in ALONE, True)
    assert [name in note for note in found.notes] == [True] * (name in ALONE)


@pytest.mark.parametrize("name", [name for name in SCORED if name not in SLOW])
def test_losses_of_two_shared_passes_are_those_of_each_sample_alone(name):
    """Against whole logits of one sample, in float64, by the model and by a moved copy; images occur repeatedly."""
    own, tolerance = double(name), 1e-7
    samples = MIXED[1::3] if name in ALONE else MIXED
    for layers in ("last:1", "language")[: 2 if SCORED.index(name) % 3 == 0 else 1]:
        model = untied(Checkpoint(own.model, None), layers).model
        weights = scored_weights(model, layers)
        other, batch = moved(model, layers), own.encode(samples)
        reuse, cache = PassReuse(model, weights), PassCache(samples)
        with torch.no_grad():
            for one in (model, other):
                with reuse.cached(one, cache):
                    found = sample_losses(one, batch)[0]
                if name in ALONE:
                    expected = sample_losses(one, batch)[0]
                else:
                    expected = torch.stack([alone(one, own, sample) for sample in samples])
                torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def moved(model, layers: str):
    other = moved_copy(model, scored_weights(model, layers))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in scored_weights(other, layers).values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return other


def alone(model, own: Family, sample: Sample) -> torch.Tensor:
    batch = own.encode([sample])
    labels = batch.pop("labels")[0, 1:]
    logits = model(**batch).logits[0, :-1][labels != IGNORE]
    return torch.nn.functional.cross_entropy(logits.double(), labels[labels != IGNORE])


@pytest.mark.parametrize(("name", "reason"), TEXTS.items())
def test_text_families_likewise(name, reason):
    own = build(name)
    if reason:
        with pytest.raises(ModelError, match=reason):
            tried(own, "head", WORDS)
    else:
        assert tried(own, "last:1", WORDS) == SelfTest()


@pytest.mark.parametrize("name", ["gemma4+shared", "gemma3n_text"])
def test_blocks_whose_keys_are_read_above_are_not_skipped(name):
    own = build(name)
    weights = scored_weights(own.model, "last:1")
    assert not PassReuse(own.model, weights).fixed_blocks
    assert tried(own, "last:1", FEW if own.pixels else WORDS).shares


def test_last_blocks_hold_nothing_that_runs_before_them():
    """Gemma 4 registers its inputs of each layer behind the layers."""
    names = scored_weights(family("gemma4").model, "last:1")
    assert not [name for name in names if "per_layer" in name and ".layers." not in name]
    assert any(name.endswith("language_model.norm.weight") for name in names)
    assert len(PassReuse(untied(Checkpoint(family("gemma4").model, None), "last:1").model, []).fixed_blocks) == 2


def test_an_image_model_that_sees_answers_ahead_is_refused():
    with pytest.raises(ModelError, match=r"paligemma.*answer tokens that come later.*choose a proxy of another family"):
        tried(build("paligemma+unmarked"), "head")


def test_images_that_do_not_reach_the_logits_are_refused():
    own = build("llava")
    with torch.no_grad():
        for weight in own.model.base_model.multi_modal_projector.parameters():
            weight.zero_()
    with pytest.raises(ModelError, match=r"the same whatever the images"):
        tried(own, "head")


def test_features_that_move_with_the_language_part_are_made_anew():
    own = build("emu3")
    reuse, cache = PassReuse(own.model, scored_weights(own.model, "language")), PassCache(FEW)
    batch = own.encode(FEW)
    with torch.no_grad(), reuse.cached(own.model, cache):
        sample_losses(own.model, batch)
    assert not reuse.images and cache.features is None


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "mixtral"])
def test_experts_have_a_copy_in_float64(name):
    model = build(name).model
    wide = in_float64(Checkpoint(model, None)).model
    text = {"input_ids": torch.arange(20, 30)[None]}
    with torch.no_grad():
        found, expected = wide(**text).logits, model(**text).logits
    assert (found.dtype, expected.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)


def test_what_computes_in_fp32_alone_has_none():
    with pytest.raises(ModelError, match=r"does not compute in float64.*score\.checks to 0"):
        in_float64(Checkpoint(build("inkling2").model, None))


def test_a_self_test_takes_the_shortest_of_each_kind():
    longer = [asked((1,), "what is it, this here?", "a cat"), asked((), "a long word", "yes")]
    assert few_of([*longer, *MIXED]) == [FEW[0], FEW[1], FEW[2]]
    assert few_of(longer[:1]) == longer[:1]


# --- gradients of vision towers ---------------------------------------------------------------------------------------

TILED = ("internvl", "aya_vision", "smolvlm", "idefics3", "llava_next", "mistral3", "lfm2_vl", "qwen2_vl", "llava")
CUT = ("internvl", "aya_vision", "smolvlm", "idefics3")
PACKED = ("mistral3", "lfm2_vl")
"""Those whose tower has all images in one row."""


@pytest.mark.parametrize("name", TILED)
def test_vision_rows_go_to_the_samples_whose_images_they_are_of(name):
    """REVIEW B12: an image of several tiles beside one of one, against autograd of one sample; or refused."""
    own = double(name)
    tiles = {FEW[0].images[0]: 4} if name in CUT else {}
    encode = functools.partial(in_tiles, own, tiles)
    weights = vision_weights(own.model)
    samples, found = FEW, {}
    hooks = GradientHooks(own.model, weights)
    generator = torch.Generator().manual_seed(0)
    along = {key: torch.randn(1, *one.shape, generator=generator, dtype=one.dtype) for key, one in weights.items()}

    def add(key: str, gradient) -> None:
        found[key] = found.get(key, 0) + gradient.products(along[key])[:, 0]

    if name in PACKED:
        with pytest.raises(ModelError, match="cannot tell which of 1 rows belong to which of 3 images"):
            passed(hooks, own, encode(samples), samples, add)
        return
    passed(hooks, own, encode(samples), samples, add)
    assert len(found) > 4
    for at, sample in enumerate(samples):
        loss = sample_losses(own.model, encode([sample]))[0].sum()
        truth = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        for key, gradient in zip(weights, truth, strict=True):
            expected, own_product = (
                (gradient * along[key][0]).sum(),
                found[key][at] if key in found else torch.zeros(()),
            )
            torch.testing.assert_close(own_product.double(), expected, rtol=1e-6, atol=1e-9, msg=f"{key} of {at}")


def passed(hooks: GradientHooks, own: Family, batch, samples, add) -> None:
    with hooks.collecting(samples, batch, add):
        sample_losses(own.model, batch)[0].sum().backward()


def in_tiles(own: Family, tiles: dict[bytes, int], samples):
    """A batch in which some images are cut into tiles, one behind the other, with the places of as many tokens."""
    if not tiles:
        return own.encode(samples)
    spread = [
        Sample(
            tuple(image + bytes([tile]) for image in sample.images for tile in range(tiles.get(image, 1))),
            sample.messages,
        )
        for sample in samples
    ]
    return own.encode(spread)


def vision_weights(model) -> dict[str, torch.nn.Parameter]:
    language = language_modules(model)
    return {
        f"{path}.{name}": weight
        for path, module in model.named_modules()
        if module not in language and rule_for(module) and not isinstance(module, torch.nn.Embedding)
        for name, weight in module.named_parameters(recurse=False)
    }
