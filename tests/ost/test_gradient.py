"""`gradient`'s layer rules against autograd, whichever layers move, whatever is in the batch; and what it refuses."""

import numpy as np
import pytest
import torch
from specimens import copy_of, drawn, other_forms
from torch import nn

import ost
from ost.encoding import Encoder
from ost.errors import ConfigError, ModelError
from ost.models import Checkpoint
from ost.scoring.gradients.layers import rule_for
from ost.scoring.methods import prepared_scorer
from ost.scoring.passes.weights import scored_weights, untied
from ost.settings import Execution, Score
from ost.store import matrix


def autograd(checkpoint: Checkpoint, sample: ost.Sample, names: list[str]) -> torch.Tensor:
    """Flat gradient of one sample's own loss over the named weights."""
    batch = Encoder(checkpoint.processor).training([sample])
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(checkpoint.model.dtype)
    weights = [checkpoint.model.get_parameter(name) for name in names]
    parts = torch.autograd.grad(checkpoint.model(**batch).loss, weights, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).double()


def products(checkpoint: Checkpoint, pool, anchors, names: list[str]) -> np.ndarray:
    """⟨∇ℓ(z), ∇ℓ(a)⟩ for every sample z and anchor a."""
    ours, theirs = (torch.stack([autograd(checkpoint, s, names) for s in some]) for some in (pool, anchors))
    return (ours @ theirs.T).numpy()


def by_cell(
    checkpoint: Checkpoint, pool, anchors, execution: Execution | None = None, **settings
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    scorer = prepared_scorer(checkpoint, anchors, Score(method="gradient", **settings), execution=execution)
    return matrix(scorer.rows(pool), "by_cell"), scorer.partition.members


@pytest.fixture(scope="module")
def mixed() -> list[ost.Sample]:
    """No image, one, two; short and long: batches whose activations are ragged."""
    return [*drawn("pool", 6, 5), *other_forms(), *drawn("pool", 2, 6)]


@pytest.mark.parametrize("layers", ["all", "language", "last:1", "head"])
def test_every_cell_of_anchors_has_the_product_with_its_own_gradient(layers, mixed, proxy64):
    anchors, own = drawn("anchors", 9), untied(proxy64, layers)
    expected = products(own, mixed, anchors, list(scored_weights(own.model, layers)))
    found, cells = by_cell(proxy64, mixed, anchors, layers=layers, folds=2, execution=Execution(batch_tokens=70))
    assert len(cells) == 8, "four tasks in two folds"
    for cell, members in enumerate(cells):
        np.testing.assert_allclose(found[:, cell], expected[:, list(members)].mean(axis=1), rtol=1e-5, atol=1e-5)


def test_one_direction_and_many_agree(mixed, proxy64, anchors):
    """For one direction no gradient is formed; for several it is."""
    one, _ = by_cell(proxy64, mixed, anchors, detail="total")
    many, cells = by_cell(proxy64, mixed, anchors, detail="folds")
    shares = np.array([len(cell) for cell in cells]) / len(anchors)
    np.testing.assert_allclose(many @ shares, one[:, 0], rtol=1e-6, atol=1e-7)


def test_the_choice_of_layers_nests(proxy):
    sets = [set(scored_weights(untied(proxy, own).model, own)) for own in ("head", "last:1", "last:2", "all")]
    assert sets[0] == {"lm_head.weight"}, "its own use of the table that it shares with the embedding"
    assert sets[0] < sets[1] < sets[2] and sets[2] - sets[0] < sets[3]
    language = set(scored_weights(proxy.model, "language"))
    assert language - sets[2] == {"model.language_model.embed_tokens.weight"} and language < sets[3]
    sets[2] = language
    assert sets[-1] == {name for name, _ in proxy.model.named_parameters()}
    assert not any("visual" in name for name in sets[-2])
    assert {name.split(".")[3] for name in sets[1] if ".layers." in name} == {"1"}, "last:1 is the last block"


@pytest.mark.parametrize("method", ["exact", "transposed"])
@pytest.mark.parametrize("layers", ["last:1", "language"])
def test_the_other_methods_move_the_same_layers(method, layers, mixed, proxy64, anchors):
    def utility(method: str, step: float) -> np.ndarray:
        settings = {"method": method, "layers": layers, "step": step, "checks": 0}
        return ost.score(mixed, anchors[:8], proxy64, **settings).table["utility"].to_numpy()

    expected = utility("gradient", 1.0)
    error = np.abs(utility(method, 1e-5 if method == "exact" else 3e-4) - expected).max()
    assert error < 0.02 * expected.std()


@pytest.mark.parametrize("layers", ["middle", "last:0", "last:", "Head"])
def test_unknown_layers_are_refused_before_any_work(layers, mixed, proxy, anchors):
    with pytest.raises(ConfigError, match="layers"):
        ost.score(mixed, anchors, proxy, layers=layers)


class Odd(nn.Module):
    """Scales what passes by a weight that there is no rule for."""

    def __init__(self, inner: nn.Module, width: int):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.ones(width))

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs) * self.scale


def test_a_layer_without_a_rule_is_refused_by_name(mixed, anchors, fresh):
    odd = copy_of(fresh)
    block = odd.model.model.language_model.layers[0]
    block.mlp = Odd(block.mlp, 96)
    with pytest.raises(ModelError, match=r"no rule for Odd at model\.language_model\.layers\.0\.mlp \(scale\)"):
        ost.score(mixed, anchors, odd, method="gradient", checks=0)
    assert len(ost.score(mixed, anchors, odd, method="transposed", checks=0).table) == len(mixed)
    above = ost.score(mixed, anchors, odd, method="gradient", layers="last:1", checks=0)
    assert len(above.table) == len(mixed), "not among the scored"


def test_a_weight_used_behind_its_modules_back_is_refused_by_name(mixed, anchors, fresh):
    """The rule for the module exists, and would be wrong: only a comparison with autograd shows it."""
    sly = copy_of(fresh)
    block = sly.model.model.language_model.layers[1].mlp
    block.forward = lambda x: block.down_proj(x @ block.gate_proj.weight.T * block.up_proj(x))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.gate_proj\.weight: the model uses it outside"):
        ost.score(mixed, anchors, sly, method="gradient", checks=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_patch_convolution_is_a_linear_layer_over_patches(bias):
    """Two dimensions and several patches, as in SigLIP or CLIP; the proxies' own has three and one."""
    module = nn.Conv2d(3, 5, kernel_size=4, stride=4, bias=bias).double()
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    output = module(images)
    delta = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = dict(rule_for(module)(module, images, delta, lambda rows: rows.reshape(2, -1, rows.shape[-1])))
    assert set(found) == ({"weight", "bias"} if bias else {"weight"})
    for name, gradient in found.items():
        weight = module.get_parameter(name)
        direction = torch.randn(3, *weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        for sample in range(2):
            (truth,) = torch.autograd.grad((module(images[sample : sample + 1]) * delta[sample]).sum(), weight)
            expected = (direction * truth).flatten(1).sum(dim=1)
            torch.testing.assert_close(gradient.products(direction)[sample], expected)


def test_nothing_is_left_on_the_model(mixed, anchors, proxy):
    model = copy_of(proxy)
    expects = [weight.requires_grad for weight in model.model.parameters()]
    ost.score(mixed, anchors, model, method="gradient", checks=0)
    assert [weight.requires_grad for weight in model.model.parameters()] == expects
    assert not any(module._forward_hooks for module in model.model.modules()), "a hook was left behind"
    assert all(weight.grad is None for weight in model.model.parameters())


def test_sketches_keep_inner_products(proxy64, anchors):
    """Against whole gradients over the matrices that are sketched: all but tables that are looked up in."""
    loose = copy_of(proxy64, torch.float64)
    loose.model.lm_head.weight = nn.Parameter(loose.model.lm_head.weight.detach().clone())
    owners = {path: module for path, module in loose.model.named_modules() if isinstance(module, nn.Linear | nn.Conv3d)}
    pool = drawn("pool", 16, 7)
    truth = products(loose, pool, pool, [f"{path}.weight" for path in owners])
    lengths = np.sqrt(np.outer(truth.diagonal(), truth.diagonal()))
    errors = []
    for edge in (4, 32):
        scorer = prepared_scorer(loose, anchors, Score(method="gradient", sketch=edge**2))
        sketch = matrix(scorer.rows(pool), "sketch").astype(np.float64)
        errors.append(((sketch @ sketch.T - truth) / lengths).std())
    assert errors[1] < 0.15, "the error of a sketch of k² numbers is a few k-ths of the two lengths"
    assert errors[1] < errors[0] / 3


def test_a_sketch_depends_on_the_sample_alone(mixed, proxy, anchors):
    def sketch(pool, anchors, **settings) -> np.ndarray:
        table = ost.score(pool, anchors, proxy, method="gradient", sketch=64, checks=0, **settings).table
        return matrix(table, "sketch").astype(np.float32)

    whole = sketch(mixed, anchors)
    alone = sketch(mixed[3:5], anchors[:4], execution=Execution(batch_tokens=1))
    np.testing.assert_allclose(alone, whole[3:5], rtol=5e-3, atol=2e-3 * np.abs(whole).max())
