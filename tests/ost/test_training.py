"""Training: what a seed fixes, and what stops a run."""

import math

import numpy as np
import pytest
import torch
from specimens import copy_of, drawn, other_forms
from torch import nn

import ost
from ost.data import Sample, chat
from ost.encoding import Encoder
from ost.errors import TrainingError
from ost.evaluation.evaluate import evaluate
from ost.models import Checkpoint
from ost.training import Recipe, Trained, train


def trained(start: Checkpoint, samples: list[Sample], **changes) -> tuple[dict, Trained]:
    checkpoint = copy_of(start)
    settings_ = {"steps": 5, "batch_size": 4, "learning_rate": 2e-3, "seed": 0} | changes
    result = train(checkpoint, samples, Recipe(**settings_))
    return checkpoint.model.state_dict(), result


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def lessons() -> list[Sample]:
    return [*drawn("pretrain", 20), *other_forms()]


@pytest.fixture(scope="module")
def once(fresh, lessons) -> dict:
    return trained(fresh, lessons)[0]


def test_a_seed_fixes_the_weights_bit_by_bit(fresh, lessons, once):
    torch.manual_seed(99)
    torch.rand(7)
    assert equal(trained(fresh, lessons)[0], once), "training reads random numbers that its seed does not fix"


def test_another_seed_gives_other_weights(fresh, lessons, once):
    assert not equal(trained(fresh, lessons, seed=1)[0], once), "the seed does not reach the order of the samples"


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"warmup_ratio": 0.9}, {"weight_decay": 0.5}], ids=str)
def test_every_number_of_the_recipe_is_used(change, fresh, lessons, once):
    assert not equal(trained(fresh, lessons, **change)[0], once)


def test_loss_falls_and_the_samples_are_learned(fresh):
    few = drawn("pretrain", 4)
    checkpoint = copy_of(fresh)
    first = trained(fresh, few, steps=1)[1].loss
    last = train(checkpoint, few, Recipe(steps=60, batch_size=4, learning_rate=5e-3))
    assert last.loss < 0.1 * first
    assert not checkpoint.model.training, "the model is left in training mode"
    assert evaluate(checkpoint, few, metric="exact").accuracy == 1.0, "learned by heart, but not said"


def test_the_result_says_what_was_done(fresh, lessons):
    calls = []
    recipe = Recipe(steps=3, batch_size=2, learning_rate=1e-3)
    result = train(copy_of(fresh), lessons, recipe, lambda *call: calls.append(call[:2]))
    assert (result.steps, result.samples) == (3, len(lessons))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert result.cost.seconds > 0
    assert result.cost.flops == pytest.approx(2 * trained(fresh, lessons, steps=3, batch_size=1)[1].cost.flops)


def test_the_second_moment_is_that_of_adamw_run_by_hand(fresh, lessons, monkeypatch):
    """The same batches through torch's own AdamW, with clipping to 1 and the schedule written out."""
    batches, steps, own = [], 4, copy_of(fresh)

    class Recorder(Encoder):
        def training(self, samples):
            batches.append(super().training(samples))
            return dict(batches[-1])

    monkeypatch.setattr("ost.execution.loader.Encoder", Recorder)
    found = trained(fresh, lessons, steps=steps)[1].moments.corrected_second()
    names = [name for name, _ in own.model.named_parameters()]
    assert "lm_head.weight" not in names and set(found) == set(names), "a tied weight has one name"
    weights = list(own.model.train().parameters())
    adam = torch.optim.AdamW(weights, weight_decay=0.0)
    for step, batch in zip(range(steps), batches, strict=False):
        adam.param_groups[0]["lr"] = 2e-3 * (0.5 * (1 + math.cos(math.pi * (step - 1) / (steps - 1))) if step else 0.0)
        own.model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad()
    for name, weight in zip(names, weights, strict=True):
        expected = adam.state[weight]["exp_avg_sq"] / (1 - 0.999**steps)
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-3 * expected.max().item(), msg=name)


def test_one_sample_can_fill_every_batch(fresh):
    assert trained(fresh, drawn("pretrain", 1), steps=2)[1].samples == 1


def test_an_empty_subset_is_a_training_error(fresh):
    with pytest.raises(TrainingError, match="the subset is empty"):
        trained(fresh, [])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_its_step(value, fresh, lessons):
    broken = copy_of(fresh)
    broken.model.model.language_model.norm.weight.data.fill_(value)
    before = {name: tensor.clone() for name, tensor in broken.model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step 1; lower the learning rate"):
        train(broken, lessons, Recipe(steps=3, batch_size=2, learning_rate=1e-3))
    weights = {name: tensor for name, tensor in broken.model.state_dict().items() if "language_model.norm" not in name}
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


def test_a_training_on_text_alone_leaves_the_moments_of_a_vision_tower_at_zero(fresh):
    """Else a pool without images could not be scored by a proxy that sees."""
    proxy = copy_of(fresh)
    texts = [Sample((), chat(f"{number} + 1", str(number + 1), images=0)) for number in range(8)]
    second = train(proxy, texts, Recipe(steps=2, batch_size=4, learning_rate=1e-3)).moments.corrected_second()
    assert second.keys() == {name for name, weight in proxy.model.named_parameters() if weight.requires_grad}
    moved = {name for name, moment in second.items() if moment.any()}
    assert moved and not any("visual" in name for name in moved)
    proxy.second_moment = second
    settings = {"method": "transposed", "layers": "all", "checks": 0, "optimizer": "adam"}
    assert np.isfinite(ost.score(texts, texts[:4], proxy, **settings).table["utility"].to_numpy()).all()
