"""Train on Validation against the token losses of a model that is trained here, and how its two arms choose."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from specimens import copy_of, drawn
from streamed import Streamed

from ost.arms import arm_of
from ost.baselines.reference_models import color
from ost.baselines.train_on_validation import tov
from ost.encoding import IGNORE, Encoder
from ost.errors import TrainingError
from ost.execution import batches
from ost.models import Checkpoint
from ost.selection import KEPT, NOT_DRAWN, kept_ids
from ost.settings import Execution, Settings
from ost.training import Recipe, train
from ost.worlds import handmath
from ost.worlds.settings import World
from ost.worlds.teacher import wrong_answers

RECIPE = Recipe(steps=6, batch_size=8, learning_rate=2e-3)


def token_losses(checkpoint: Checkpoint, sample) -> np.ndarray:
    """Of a sample's answer, by the model's own logits."""
    batch = Encoder(checkpoint.processor).training([sample])
    labels = batch.pop("labels")[0, 1:]
    inputs = {name: x.to(checkpoint.model.dtype) if x.is_floating_point() else x for name, x in batch.items()}
    with torch.no_grad():
        logits = checkpoint.model(**inputs).logits[0, :-1]
    return torch.nn.functional.cross_entropy(
        logits[labels != IGNORE], labels[labels != IGNORE], reduction="none"
    ).numpy()


def test_a_score_is_the_mean_change_of_an_answers_tokens(proxy, pool, anchors):
    tuned = copy_of(proxy)
    train(tuned, anchors, RECIPE)
    before, after = copy_of(proxy, torch.float64), copy_of(tuned, torch.float64)
    changes = [token_losses(before, one) - token_losses(after, one) for one in pool]
    found, cost = tov(pool, anchors, proxy, RECIPE)
    np.testing.assert_allclose(found, [change.mean() for change in changes], atol=1e-5)
    np.testing.assert_allclose(
        tov(pool, anchors, proxy, RECIPE, "magnitude")[0], [np.abs(change).mean() for change in changes], atol=1e-5
    )
    assert cost.seconds > 0 and cost.flops == pytest.approx(color(pool, anchors, proxy, RECIPE)[1].flops)


def test_right_samples_rank_above_the_same_with_wrong_answers(proxy):
    problems = handmath.draw("pool", 40, 3)
    right = [handmath.to_sample(problem) for problem in problems]
    texts = wrong_answers(handmath, problems, World(misread=1.0, wrong_operation=1.0), 0)
    wrong = [handmath.to_sample(problem, text) for problem, text in zip(problems, texts, strict=True)]
    found, _ = tov(right + wrong, drawn("anchors", 24), proxy, RECIPE)
    changed = np.array([a.answer != b.answer for a, b in zip(right, wrong, strict=True)])
    assert changed.sum() > 20
    assert (found[:40] > found[40:])[changed].mean() > 0.6


def test_scores_do_not_depend_on_order_or_batch_and_the_proxy_stays(proxy, pool, anchors):
    before = {name: weight.clone() for name, weight in proxy.model.state_dict().items()}
    found, same = (tov(pool[:20], anchors, proxy, RECIPE, execution=Execution(batch_tokens=250))[0] for _ in range(2))
    again, _ = tov(pool[:20][::-1], anchors, proxy, RECIPE, execution=Execution(batch_tokens=45))
    np.testing.assert_allclose(found, again[::-1], atol=1e-4)
    np.testing.assert_array_equal(found, same)
    assert all(torch.equal(weight, before[name]) for name, weight in proxy.model.state_dict().items())


def test_a_window_of_the_pool_is_held_at_a_time(proxy, pool, anchors, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 8)
    streamed, told = Streamed(pool), []
    how = {"execution": Execution(batch_tokens=60)}
    found, _ = tov(streamed, anchors, proxy, RECIPE, **how, progress=lambda *call: told.append(call))
    assert streamed.held == 0 and 0 < streamed.most <= 24 < len(pool)
    np.testing.assert_array_equal(found, tov(pool, anchors, proxy, RECIPE, **how)[0])
    assert told[-1] == (60, 60, "losses before and after") and told[0] == (1, 6, "training")


def test_without_anchors_there_is_nothing_to_train_on(proxy, pool):
    with pytest.raises(TrainingError, match="nothing to train on"):
        tov(pool[:4], [], proxy, RECIPE)


# --- what is kept -----------------------------------------------------------------------------------------------------

IDS = [f"s{number:03d}" for number in range(100)]
SCORES = [float("nan"), *range(99)]


def chosen(arm: str, fraction: float, seed: int = 0, order=slice(None)) -> pa.Table:
    table = pa.table({"id": IDS[order], "score": SCORES[order]})
    return arm_of(arm).choose(table, fraction, Settings(seed=seed))


@pytest.mark.parametrize(("fraction", "size", "top"), [(0.2, 20, 10), (0.05, 5, 3), (0.01, 1, 1), (1.0, 99, 50)])
def test_half_is_kept_by_score_and_half_at_random(fraction, size, top):
    kept, best = (kept_ids(chosen(arm, fraction)) for arm in ("tov", "tov-top"))
    assert len(kept) == len(set(kept)) == size and kept[:top] == best[:top]
    if size == 20:
        assert len(set(kept) & set(best)) < 15, "what is drawn is drawn by score"


def test_the_draw_follows_the_seed_alone_and_says_so():
    assert kept_ids(chosen("tov", 0.2)) == kept_ids(chosen("tov", 0.2, order=slice(None, None, -1)))
    assert kept_ids(chosen("tov", 0.2))[:10] == kept_ids(chosen("tov", 0.2, seed=1))[:10]
    assert kept_ids(chosen("tov", 0.2)) != kept_ids(chosen("tov", 0.2, seed=1))
    reasons = chosen("tov", 0.2)["reason"].to_pylist()
    assert reasons[0] == "score below the cut" and set(reasons[1:]) == {KEPT, NOT_DRAWN}
