"""Two passes that share what lies below the first moved weight, against two whole passes; and what is run how often."""

import pytest
import torch
from specimens import copy_of, drawn, other_forms
from torch import nn

from ost.data import Sample, chat
from ost.models import Checkpoint
from ost.scoring.methods.transposed import TransposedScorer
from ost.scoring.methods.two_pass import moved_share
from ost.scoring.passes.reuse import PassCache, PassReuse
from ost.scoring.passes.weights import moved_copy, scored_weights, untied
from ost.settings import Score
from ost.worlds.tiny import PROXY
from ost.worlds.tiny.llava import build_llava
from ost.worlds.tiny.text import build_text

LAYERS = ("all", "language", "last:2", "last:1", "head")


def scorer(checkpoint: Checkpoint, layers: str, anchors) -> TransposedScorer:
    return TransposedScorer(checkpoint, anchors, Score(method="transposed", layers=layers))


def moved(scorer: TransposedScorer) -> nn.Module:
    """A copy of the proxy, moved at random."""
    model = moved_copy(scorer.proxy.model, scorer.weights)
    with torch.no_grad():
        for weight in scored_weights(model, scorer.settings.layers).values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    return model


def repeated() -> list[Sample]:
    """Samples of which several carry the same images, one image stands twice in a sample, and one has none."""
    one, two = drawn("pool", 2, 3)
    again = [
        Sample(one.images, chat("Which digit is on the left?", answer), "other") for answer in ("3", "4 , I think")
    ]
    twice = Sample((*two.images, *two.images), chat("Are they alike?", "yes", images=2), "other")
    return [one, two, *again, twice, other_forms()[1]]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("samples", [repeated, other_forms])
def test_shared_passes_are_whole_passes(layers, samples, proxy64, anchors):
    own = scorer(proxy64, layers, anchors[:4])
    other, samples = moved(own), samples()
    cache = PassCache(samples)
    batch = own.encode(samples)
    with torch.no_grad():
        expected = [own.losses(batch, model)[0] for model in (own.proxy.model, other)]
        found = [own.cached_losses(model, batch, cache)[0] for model in (own.proxy.model, other, own.proxy.model)]
    assert (expected[0] - expected[1]).abs().min() > 1e-4, "the move shows nowhere"
    for there, here in zip([*expected, expected[0]], found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("family", ["llava", "text"])
def test_other_families_share_too(family, layers, processor, anchors):
    if family == "llava":
        checkpoint, samples = build_llava(PROXY, processor.tokenizer, 0), repeated()
    else:
        checkpoint = build_text(PROXY, processor.tokenizer, 0)
        samples = [Sample((), chat(f"What is 3 + {n}?", f"3 + {n} = {n + 3}", images=0), "sum") for n in range(5)]
    checkpoint.model.double().eval()
    own = scorer(checkpoint, layers, samples[:4])
    other, cache, batch = moved(own), PassCache(samples), own.encode(samples)
    with torch.no_grad():
        expected = [own.losses(batch, model)[0] for model in (own.proxy.model, other)]
        found = [own.cached_losses(model, batch, cache)[0] for model in (own.proxy.model, other)]
    for there, here in zip(expected, found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", LAYERS[1:])
def test_gradients_of_a_shared_pass_are_those_of_a_whole_one(layers, proxy64, anchors):
    own = scorer(proxy64, layers, anchors[:4])
    weights, batch, cache = list(own.weights.values()), own.encode(anchors[:6]), PassCache()
    expected = torch.autograd.grad(own.losses(batch)[0].sum(), weights)
    with torch.no_grad():
        own.cached_losses(own.proxy.model, batch, cache)
    found = torch.autograd.grad(own.cached_losses(own.proxy.model, batch, cache)[0].sum(), weights)
    for here, there in zip(found, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-7, atol=1e-10)


def test_where_tokens_stand_is_worked_out_once_for_a_batch(proxy, anchors):
    """Of a family that does so from the inputs alone, sample by sample."""
    own, calls = scorer(proxy, "all", anchors[:4]), []
    models = [own.proxy.model, moved(own)]
    for model in models:
        place = model.model.get_rope_index
        model.model.get_rope_index = lambda *args, place=place, **named: calls.append(1) or place(*args, **named)
    batches = [(own.encode(samples), PassCache(samples)) for samples in (anchors[:4], anchors[4:9])]
    try:
        with torch.no_grad():
            for batch, cache in batches:
                for model in models:
                    own.cached_losses(model, batch, cache)
        assert len(calls) == 2
        own.losses(batches[0][0], models[1])
        assert len(calls) == 3, "a pass outside is the model's own"
    finally:
        for model in models:
            del model.model.get_rope_index


class Calls:
    """How many images, and passes, each part of a model has seen."""

    def __init__(self, model):
        self.images, self.blocks = 0, [0, 0]
        model.model.visual.register_forward_hook(self._saw, with_kwargs=True)
        for at, block in enumerate(model.get_decoder().layers):
            block.mlp.register_forward_hook(lambda *_, at=at: self._ran(at))

    def _saw(self, module, args, kwargs, output):
        self.images += len(kwargs["grid_thw"])

    def _ran(self, at: int):
        self.blocks[at] += 1


@pytest.mark.parametrize(
    ("layers", "images", "blocks"),
    [("all", 12, [2, 2]), ("language", 2, [2, 2]), ("last:2", 2, [2, 2]), ("last:1", 2, [1, 2]), ("head", 2, [1, 1])],
)
def test_what_lies_below_runs_once_and_each_distinct_image_once(layers, images, blocks, proxy, anchors):
    """Six images in the batch, two of them distinct; two passes by the same model."""
    own = scorer(copy_of(proxy), layers, anchors[:4])
    assert own.reuse  # which passes a few tokens itself
    samples, calls = repeated(), Calls(own.proxy.model)
    cache = PassCache(samples)
    for _ in range(2):
        own.cached_losses(own.proxy.model, own.encode(samples), cache)
    assert (calls.images, calls.blocks) == (images, blocks)


def test_a_model_is_left_as_it_was(proxy, anchors):
    own = scorer(copy_of(proxy), "last:1", anchors[:4])
    model, cache = own.proxy.model, PassCache(anchors[:2])
    before = [(path, dict(vars(module))) for path, module in model.named_modules()]
    for _ in range(2):
        own.cached_losses(model, own.encode(anchors[:2]), cache)
    for (path, variables), module in zip(before, model.modules(), strict=True):
        assert vars(module).keys() == variables.keys(), path
        assert not module._forward_pre_hooks, path


def test_a_failed_pass_leaves_nothing_behind(proxy, anchors):
    model = copy_of(proxy).model
    reuse = PassReuse(model, list(scored_weights(model, "language")))
    with pytest.raises(RuntimeError, match="midway"), reuse.cached(model, PassCache()):
        raise RuntimeError("midway")
    assert "get_image_features" not in vars(model.base_model)


def test_an_untied_head_is_the_only_weight_of_its_own(proxy):
    own = untied(proxy, "head")
    assert own.model is not proxy.model and untied(proxy, "language") is proxy
    theirs = dict(proxy.model.named_parameters())
    for name, weight in own.model.named_parameters():
        assert name == "lm_head.weight" or weight is theirs[name]
    head, table = own.model.get_output_embeddings().weight, own.model.get_input_embeddings().weight
    assert head is not table and torch.equal(head, table)


def test_the_second_moment_of_a_tied_table_is_its_heads_too(proxy):
    moments = {name: torch.rand(weight.shape) for name, weight in proxy.model.named_parameters()}
    own = untied(Checkpoint(proxy.model, proxy.processor, moments), "last:1")
    assert own.second_moment["lm_head.weight"] is moments["model.language_model.embed_tokens.weight"]
    assert "lm_head.weight" not in moments


def test_the_share_that_moves_shrinks_with_the_layers(proxy, anchors):
    shares = [moved_share(scorer(proxy, layers, anchors[:4]), anchors) for layers in LAYERS]
    assert shares[0] == pytest.approx(1.0)
    assert shares[0] > shares[1] >= shares[2] > shares[3] > shares[4]
    assert shares[-1] < 0.2
