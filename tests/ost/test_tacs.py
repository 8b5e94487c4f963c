"""TACS against a walk and its losses that are computed here, apart from it, by plain forward passes in float64."""

import numpy as np
import pytest
import torch
from specimens import copy_of, drawn
from streamed import Streamed

from ost.baselines.tacs import FOLDS, RANK, tacs
from ost.data import Sample
from ost.encoding import IGNORE, Encoder
from ost.errors import TrainingError
from ost.execution import batches
from ost.models import Checkpoint, add_adapter
from ost.scoring.anchors import folds_of
from ost.scoring.checks import choose
from ost.settings import Execution
from ost.worlds import handmath
from ost.worlds.settings import World
from ost.worlds.teacher import wrong_answers
from ost.worlds.tiny import PROXY
from ost.worlds.tiny.text import build_text

STEPS, RATE = 4, 4e-3


def adapted(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Checkpoint:
    found = copy_of(checkpoint)
    add_adapter(found.model, RANK, seed=0)
    found.model.to(dtype)
    return found


def walked(pool, anchors, proxy: Checkpoint, **changes):
    return tacs(pool, anchors, proxy, **{"most_steps": STEPS, "learning_rate": RATE} | changes)


class Plain:
    """The method written out: a sample at a time, by the model's own logits."""

    def __init__(self, proxy: Checkpoint):
        self.model, self.encoder = proxy.model, Encoder(proxy.processor)
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.start = [weight.detach().clone() for weight in self.weights]

    def loss(self, sample: Sample) -> torch.Tensor:
        batch = self.encoder.training([sample])
        labels = batch.pop("labels")[0, 1:]
        inputs = {name: x.to(self.model.dtype) if x.is_floating_point() else x for name, x in batch.items()}
        logits = self.model(**inputs).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE)

    def gradient(self, samples) -> list[torch.Tensor]:
        mean = torch.stack([self.loss(sample) for sample in samples]).mean()
        return torch.autograd.grad(mean, self.weights, allow_unused=True, materialize_grads=True)

    def walk(self, samples):
        """Kingma and Ba, algorithm 1, from the start."""
        for weight, first in zip(self.weights, self.start, strict=True):
            weight.data.copy_(first)
        moments = [[torch.zeros_like(weight), torch.zeros_like(weight)] for weight in self.weights]
        for step in range(1, STEPS + 1):
            gradients = self.gradient(samples)
            for weight, (m, v), g in zip(self.weights, moments, gradients, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                weight.data -= RATE * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            yield flat([weight.data - first for weight, first in zip(self.weights, self.start, strict=True)])

    def losses(self, samples) -> np.ndarray:
        with torch.no_grad():
            return np.array([self.loss(sample).item() for sample in samples])


def flat(parts) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


@pytest.fixture(scope="module")
def target() -> list[Sample]:
    return drawn("anchors", 9)


def test_depth_and_scores_are_those_of_the_method_written_out(proxy, pool, target):
    plain, cosine = Plain(adapted(proxy, torch.float64)), torch.nn.functional.cosine_similarity
    generic = [pool[at] for at in choose([sample.id for sample in pool], len(target))]
    curves = []
    for fold in folds_of(target, FOLDS):
        own, others = [target[at] for at in fold], [target[at] for at in range(len(target)) if at not in fold]
        curve = []
        for direction in plain.walk(others):
            towards = [cosine(direction, -flat(plain.gradient(samples)), dim=0) for samples in (own, generic)]
            curve.append(float(towards[0] - towards[1]))
        curves.append(curve)
    selectivity = np.mean(curves, axis=0)

    found = walked(pool, target, adapted(proxy))
    np.testing.assert_allclose(found.selectivity, selectivity, atol=2e-3)
    assert found.depth == 1 + int(np.argmax(selectivity))

    path = plain.walk(target)
    for weight, first in zip(plain.weights, plain.start, strict=True):
        weight.data.copy_(first)
    before = plain.losses(pool)
    for _ in range(found.depth):
        next(path)
    np.testing.assert_allclose(found.scores, (before - plain.losses(pool)) / before, atol=2e-4)


def test_scores_do_not_depend_on_order_or_batch(proxy, pool, target):
    some, large, small = pool[:20], Execution(batch_tokens=250), Execution(batch_tokens=45)
    found, same = (walked(some, target, adapted(proxy), most_steps=2, execution=large) for _ in range(2))
    again = walked(some[::-1], target[::-1], adapted(proxy), most_steps=2, execution=small)
    assert found.depth == again.depth
    np.testing.assert_allclose(found.scores, again.scores[::-1], atol=1e-4)
    np.testing.assert_array_equal(found.scores, same.scores)


def test_right_samples_lose_more_of_their_loss_than_the_same_with_wrong_answers(proxy):
    problems = handmath.draw("pool", 40, 3)
    right = [handmath.to_sample(problem) for problem in problems]
    texts = wrong_answers(handmath, problems, World(misread=1.0, wrong_operation=1.0), 0)
    wrong = [handmath.to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
    found = walked(right + wrong, drawn("anchors", 24), adapted(proxy), most_steps=8).scores
    changed = np.array([a.answer != b.answer for a, b in zip(right, wrong, strict=True)])
    assert changed.sum() > 20
    assert (found[:40] > found[40:])[changed].mean() > 0.6


def test_the_adapter_ends_as_it_began_and_nothing_else_moves(proxy, pool, target):
    fresh = adapted(proxy)
    before = {name: weight.clone() for name, weight in fresh.model.state_dict().items()}
    walked(pool[:8], target, fresh)
    assert all(torch.equal(weight, before[name]) for name, weight in fresh.model.state_dict().items())


def test_a_window_of_the_pool_is_held_at_a_time(proxy, pool, target, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 8)
    streamed, how = Streamed(pool), {"most_steps": 1, "execution": Execution(batch_tokens=60)}
    found = walked(streamed, target, adapted(proxy), **how)
    assert streamed.held == 0 and 0 < streamed.most <= 24 + len(target) < len(pool)
    np.testing.assert_array_equal(found.scores, walked(pool, target, adapted(proxy), **how).scores)


def without_images(sample: Sample) -> Sample:
    parts = [[part for part in turn["content"] if part["type"] == "text"] for turn in sample.messages]
    turns = [turn | {"content": own} for turn, own in zip(sample.messages, parts, strict=True)]
    return Sample((), tuple(turns), sample.task)


def test_a_text_model_walks_too(processor):
    samples = list(map(without_images, drawn("pool", 12)))
    found = walked(samples, samples[:5], adapted(build_text(PROXY, processor.tokenizer, 0)))
    assert np.isfinite(found.scores).all() and found.scores[:5].mean() > 0


def test_the_walk_and_both_passes_are_counted_and_shown(proxy, pool, target):
    told = []
    short, long = (
        walked(pool[:8], target, adapted(proxy), most_steps=steps, progress=lambda *call: told.append(call)).cost
        for steps in (1, 4)
    )
    wide = walked(pool[:8] * 2, target, adapted(proxy), most_steps=1).cost
    assert 0 < short.flops < long.flops and short.flops < wide.flops and short.seconds > 0
    notes = {note for _, _, note in told}
    assert notes == {"walking on the anchors, a fold left out", "losses at both ends of the path"}
    assert (3, 3, "walking on the anchors, a fold left out") in told and told[-1][:2] == (8, 8)


def test_without_anchors_there_is_no_path(proxy, pool):
    with pytest.raises(TrainingError, match="no path to walk"):
        walked(pool[:4], [], adapted(proxy))
