"""CoLoR-Filter and RHO-LOSS against the losses of reference models that are trained here, apart from them."""

import numpy as np
import pytest
import torch
from specimens import copy_of
from streamed import Streamed

from ost.baselines.low_loss import low_loss
from ost.baselines.reference_models import color, rho
from ost.errors import TrainingError
from ost.execution import batches
from ost.execution.forward import losses_of
from ost.models import Checkpoint, add_adapter
from ost.settings import Execution
from ost.training import Recipe, train

RECIPE = Recipe(steps=6, batch_size=8, learning_rate=2e-3)


@pytest.fixture(scope="module")
def warm(proxy, pool) -> Checkpoint:
    """The proxy after a few steps on the pool."""
    warmed = copy_of(proxy)
    train(warmed, pool, Recipe(steps=4, batch_size=8, learning_rate=2e-3))
    return warmed


def loss_after(origin: Checkpoint, anchors, samples) -> np.ndarray:
    """Losses (N,) of a copy of the origin that is trained on the anchors."""
    reference = copy_of(origin)
    train(reference, anchors, RECIPE)
    return losses_of(samples, reference)


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in checkpoint.model.state_dict().items()}


def test_color_is_what_the_anchors_take_off_the_priors_loss(warm, pool, anchors):
    found, cost = color(pool, anchors, warm, RECIPE)
    np.testing.assert_allclose(found, losses_of(pool, warm) - loss_after(warm, anchors, pool), atol=1e-5)
    assert cost.seconds > 0


def test_rho_holds_the_current_model_against_one_that_never_saw_the_pool(warm, proxy, pool, anchors):
    found, _ = rho(pool, anchors, warm, proxy, RECIPE)
    np.testing.assert_allclose(found, losses_of(pool, warm) - loss_after(proxy, anchors, pool), atol=1e-5)
    assert not np.allclose(found, color(pool, anchors, warm, RECIPE)[0], atol=1e-2), "its reference is the warm proxy"


def test_the_checkpoints_are_left_as_they_are(warm, proxy, pool, anchors):
    before = weights_of(warm), weights_of(proxy)
    color(pool[:8], anchors, warm, RECIPE)
    rho(pool[:8], anchors, warm, proxy, RECIPE)
    for old, checkpoint in zip(before, (warm, proxy), strict=True):
        assert all(torch.equal(weight, old[name]) for name, weight in weights_of(checkpoint).items())


def test_of_an_adapter_the_adapter_alone_is_trained(proxy, pool, anchors):
    adapted = copy_of(proxy)
    add_adapter(adapted.model, rank=2, seed=0)
    train(adapted, pool, Recipe(steps=2, batch_size=8, learning_rate=2e-3))
    found, _ = color(pool[:8], anchors, adapted, RECIPE)
    np.testing.assert_allclose(found, losses_of(pool[:8], adapted) - loss_after(adapted, anchors, pool[:8]), atol=1e-5)
    assert np.ptp(found) > 0


def test_scores_do_not_depend_on_order_or_batch(warm, pool, anchors):
    found, _ = color(pool[:20], anchors, warm, RECIPE, execution=Execution(batch_tokens=250))
    again, _ = color(pool[:20][::-1], anchors, warm, RECIPE, execution=Execution(batch_tokens=45))
    np.testing.assert_allclose(found, again[::-1], atol=1e-4)


def test_a_window_of_the_pool_is_held_at_a_time(warm, proxy, pool, anchors, monkeypatch):
    """Two as one follows the other; 16 are the probe that FLOPs are counted on."""
    monkeypatch.setattr(batches, "WINDOW", 8)
    for rate in (
        lambda samples: rho(samples, anchors, warm, proxy, RECIPE, execution=Execution(batch_tokens=60)),
        lambda samples: low_loss(samples, proxy, execution=Execution(batch_tokens=60)),
    ):
        streamed = Streamed(pool)
        np.testing.assert_array_equal(rate(streamed)[0], rate(pool)[0])
        assert streamed.held == 0 and 0 < streamed.most <= 24 < len(pool)


def test_training_and_two_passes_are_counted(warm, pool, anchors):
    """One step more is one step's FLOPs more, and a pool of twice the size two passes over the half that is new."""
    longer = Recipe(steps=12, batch_size=8, learning_rate=2e-3)
    once, twice, wider = (
        color(samples, anchors, warm, recipe)[1].flops
        for samples, recipe in ((pool[:8], RECIPE), (pool[:8], longer), (pool[:8] * 2, RECIPE))
    )
    steps, passes = twice - once, wider - once
    assert once == pytest.approx(steps + passes, rel=0.01)


def test_without_anchors_there_is_no_reference(warm, pool):
    with pytest.raises(TrainingError, match="nothing to train on"):
        color(pool[:4], [], warm, RECIPE)
