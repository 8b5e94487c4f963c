"""LESS against a reference that takes every per-sample gradient by autograd, in float64 and without a projection."""

import numpy as np
import pytest
import torch
from specimens import copy_of, drawn
from streamed import Streamed

from ost.baselines import less as module
from ost.baselines.less import less
from ost.data import Sample
from ost.encoding import Encoder
from ost.execution.losses import gradients, sample_losses
from ost.models import Checkpoint, add_adapter
from ost.settings import Execution
from ost.training import Moments, Recipe, train


@pytest.fixture(scope="module")
def warmed(proxy) -> tuple[Checkpoint, Moments]:
    adapted = copy_of(proxy)
    add_adapter(adapted.model, rank=4, seed=0)
    return adapted, train(adapted, drawn("pretrain", 64), Recipe(steps=6, batch_size=8, learning_rate=2e-3)).moments


def by_autograd(proxy: Checkpoint, sample: Sample) -> dict[str, torch.Tensor]:
    weights = {name: weight for name, weight in proxy.model.named_parameters() if weight.requires_grad}
    loss = sample_losses(proxy.model, Encoder(proxy.processor).training([sample]))[0].sum()
    return {name: g.double() for name, g in zip(weights, gradients(loss, list(weights.values())), strict=True)}


def adam(gradient: dict[str, torch.Tensor], moments: Moments) -> dict[str, torch.Tensor]:
    """Kingma and Ba, algorithm 1, written out."""
    step, (one, two) = moments.steps + 1, moments.betas
    update = {}
    for name, g in gradient.items():
        m = one * moments.first[name].double() + (1 - one) * g
        v = two * moments.second[name].double() + (1 - two) * g * g
        update[name] = (m / (1 - one**step)) / ((v / (1 - two**step)) ** 0.5 + 1e-8)
    return update


def flat(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts.values()])


def reference(pool, anchors, proxy: Checkpoint, moments: Moments) -> np.ndarray:
    tasks = sorted({anchor.task for anchor in anchors})
    means = [
        torch.stack([flat(by_autograd(proxy, anchor)) for anchor in anchors if anchor.task == task]).mean(dim=0)
        for task in tasks
    ]
    updates = [flat(adam(by_autograd(proxy, sample), moments)) for sample in pool]
    cosine = torch.nn.functional.cosine_similarity
    return np.array([max(float(cosine(update, mean, dim=0)) for mean in means) for update in updates])


def test_scores_are_the_cosines_of_unprojected_features(warmed, pool, anchors):
    """A projection to 25,600 numbers keeps cosines to a few hundredths, and the ranking."""
    proxy, moments = warmed
    found, cost = less(pool[:32], anchors, proxy, moments, dimensions=160 * 160, execution=Execution(batch_tokens=250))
    expected = reference(pool[:32], anchors, proxy, moments)
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert cost.flops > 0 and cost.seconds > 0


def test_scores_do_not_depend_on_order_or_batch(warmed, pool, anchors):
    proxy, moments = warmed
    found, _ = less(pool[:20], anchors, proxy, moments, dimensions=256, execution=Execution(batch_tokens=250))
    again, _ = less(pool[:20][::-1], anchors, proxy, moments, dimensions=256, execution=Execution(batch_tokens=45))
    np.testing.assert_allclose(found, again[::-1], atol=1e-4)


def test_a_window_is_held_and_no_more(warmed, anchors, monkeypatch):
    """Whatever they are cut at, scores are the same; the anchors are held."""
    proxy, moments = warmed
    pool = drawn("pool", 64)
    whole, _ = less(pool, anchors, proxy, moments, dimensions=256, execution=Execution(batch_tokens=60))
    monkeypatch.setattr(module, "WINDOW", 8)
    streamed, told = Streamed(pool), []
    found, _ = less(
        streamed,
        anchors,
        proxy,
        moments,
        dimensions=256,
        execution=Execution(batch_tokens=60),
        progress=lambda *done: told.append(done),
    )
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert streamed.most <= 8 + 16 and streamed.held == 0, "a window, and the probe for FLOPs"
    done = [done for done, *_ in told]
    assert done == sorted(done) and len(done) > 8 and done[-1] == 64 and {total for _, total, _ in told} == {64}


def test_the_direction_is_adams_and_not_the_gradients(warmed, pool, anchors):
    """With the moments emptied the update is the sign of the gradient, and the scores are others."""
    proxy, moments = warmed
    empty = {name: torch.zeros_like(moment) for name, moment in moments.first.items()}
    found, _ = less(pool[:16], anchors, proxy, moments, dimensions=1024)
    other, _ = less(pool[:16], anchors, proxy, Moments(empty, empty, moments.betas, 0), dimensions=1024)
    assert not np.allclose(found, other, atol=0.01)
