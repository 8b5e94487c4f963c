"""In-context scores against plain forward passes over conversations that are put together here."""

import numpy as np
import pytest
import torch
from specimens import other_forms
from streamed import Streamed

from ost.baselines import in_context as module
from ost.baselines.in_context import after, in_context
from ost.data import Dataset, Facts, Sample, ShardWriter, chat
from ost.data.dataset import write_listing
from ost.encoding import IGNORE, Encoder
from ost.errors import DataError, ModelError
from ost.execution import batches
from ost.models import Checkpoint
from ost.settings import Execution
from ost.training import Recipe, train
from ost.worlds.tiny import PROXY
from ost.worlds.tiny.text import build_text


def scored(pool, anchors, proxy: Checkpoint, **changes) -> np.ndarray:
    return in_context(pool, anchors, proxy, **{"demonstrations": 3} | changes)[0]


def plain_loss(checkpoint: Checkpoint, sample: Sample, learned: int) -> float:
    """Mean loss of the last `learned` answer tokens, by the model's own logits in float64."""
    batch = Encoder(checkpoint.processor).training([sample])
    labels = batch.pop("labels")[0, 1:]
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    with torch.no_grad():
        logits = checkpoint.model(**inputs).logits[0, :-1][labels != IGNORE]
    losses = torch.nn.functional.cross_entropy(logits, labels[labels != IGNORE], reduction="none")
    return losses[-learned:].mean().item()


def test_scores_are_the_losses_alone_less_those_behind_the_demonstrations(proxy, proxy64, pool, anchors):
    """The conversation is put together here with all its answers learned, of which the sample's own count."""
    shown = module.drawn(anchors, 3, 0)
    expected = []
    for sample in pool:
        turns = [turn for one in (*shown, sample) for turn in one.messages]
        whole = Sample(tuple(image for one in (*shown, sample) for image in one.images), tuple(turns), sample.task)
        own = int((Encoder(proxy.processor).training([sample])["labels"] != IGNORE).sum())
        expected.append(plain_loss(proxy64, sample, own) - plain_loss(proxy64, whole, own))
    np.testing.assert_allclose(scored(pool, anchors, proxy), expected, atol=1e-4)


def test_demonstrations_are_of_every_task_in_turn_and_follow_the_seed_alone(anchors):
    tasks = {anchor.task for anchor in anchors}
    shown = module.drawn(anchors, len(tasks), 0)
    assert {one.task for one in shown} == tasks
    assert module.drawn(anchors[::-1], 6, 0) == module.drawn(anchors, 6, 0) != module.drawn(anchors, 6, 1)
    assert module.drawn(anchors, 6, 0)[: len(shown)] == shown[:6]
    assert len(module.drawn(anchors, 99, 0)) == len(anchors)


def test_the_samples_own_answers_alone_are_learned_and_images_stay_with_their_turns(anchors):
    shown, several = module.drawn(anchors, 2, 0), other_forms()[2]
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    told = Sample(several.images, (system, *several.messages), several.task)
    found = after(shown, told)
    assert [turn["role"] for turn in found.messages] == ["system", *["user", "assistant"] * 3]
    assert found.learned == (6,) and found.messages[0] == system
    assert found.images == (*shown[0].images, *shown[1].images, *several.images)
    parts = [part["type"] for turn in found.messages for part in turn["content"]]
    assert parts.count("image") == len(found.images)
    masked = Sample((), (*chat("One?", "Two.", 0), *chat("Three?", "Four.", 0)))
    masked = Sample((), (*masked.messages[:1], masked.messages[1] | {"loss": False}, *masked.messages[2:]))
    assert after(shown, masked).learned == (7,), "a masked turn is learned behind demonstrations"
    assert after([told], masked).messages[0]["role"] == "user", "a demonstration's system turn stands amid the turns"


def test_right_samples_rank_above_the_same_with_wrong_answers_where_the_proxy_learns_in_context(processor):
    """A proxy that answers at random, and as the demonstration did where it has seen one."""
    right = [Sample((), chat("What is the sum?", answer, 0), "sum") for answer in "2468"]
    copying = build_text(PROXY, processor.tokenizer, 0)
    lessons = [one for sample in right for one in (sample, after([sample], sample))]
    train(copying, 2 * lessons, Recipe(steps=250, batch_size=16, learning_rate=4e-3))
    gains = np.array([scored(right, [trusted], copying, demonstrations=1) for trusted in right])
    assert gains.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert (gains.diagonal() > 0.3).all() and (gains[~np.eye(4, dtype=bool)] < 0).all()


def test_scores_do_not_depend_on_order_or_batch(proxy, pool, anchors):
    found, same = (scored(pool[:20], anchors, proxy, execution=Execution(batch_tokens=400)) for _ in range(2))
    again = scored(pool[:20][::-1], anchors[::-1], proxy, execution=Execution(batch_tokens=90))
    np.testing.assert_allclose(found, again[::-1], atol=1e-4)
    np.testing.assert_array_equal(found, same)


def test_a_window_of_the_pool_is_held_at_a_time(proxy, pool, anchors, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 8)
    streamed, how = Streamed(pool), {"execution": Execution(batch_tokens=60)}
    np.testing.assert_array_equal(scored(streamed, anchors, proxy, **how), scored(pool, anchors, proxy, **how))
    assert streamed.held == 0 and 0 < streamed.most <= 24 < len(pool)


def test_the_longer_pass_is_counted_and_shown(proxy, pool, anchors):
    told = []
    few, more = (
        in_context(pool[:8], anchors, proxy, demonstrations=count, progress=lambda *call: told.append(call))[1]
        for count in (1, 4)
    )
    assert 0 < few.flops < more.flops and few.seconds > 0
    assert [call for call in told if call[0] == 8] == [(8, 8, "losses")] * 4


def test_a_text_model_reads_demonstrations_too(processor):
    samples = [Sample((), chat(f"What is {n} + 2?", f"{n + 2}", 0), "sum") for n in range(8)]
    assert np.isfinite(scored(samples, samples[:4], build_text(PROXY, processor.tokenizer, 0))).all()


def test_too_long_a_conversation_is_refused_before_any_sample_is_scored(proxy, pool, anchors, tmp_path, monkeypatch):
    long = Sample((), chat("Say it.", "one " * 120, 0), "sum")
    told = []
    with pytest.raises(ModelError, match=r"behind 20 demonstrations has \d+ tokens.* reads 512: lower in_context"):
        scored([*pool[:4], long], anchors, proxy, demonstrations=20, progress=lambda *call: told.append(call))
    with ShardWriter(tmp_path / "pool") as writer:
        for place, (sample, tokens) in enumerate(zip([*pool[:2], long], (9, 9, 999), strict=True)):
            writer.add(sample, Facts(tokens, 3, ((32, 32),) * len(sample.images), "a.parquet", place))
    write_listing(tmp_path / "pool", writer.shards, {})
    assert module._longest(Dataset(tmp_path / "pool")).id == long.id
    assert not told


def test_a_family_that_refuses_several_images_is_named_with_a_remedy(proxy, pool, anchors, monkeypatch):
    def training(self, samples):
        if any(len(sample.images) > 1 for sample in samples):
            raise DataError("one image at most")
        raise AssertionError("it was scored all the same")

    monkeypatch.setattr(Encoder, "training", training)
    with pytest.raises(ModelError, match=r"Qwen3VL.* does not read .* 3 others: one image at most; lower in_context"):
        scored(pool[:4], anchors, proxy)


def test_without_anchors_there_is_nothing_to_show(proxy, pool):
    with pytest.raises(DataError, match="nothing to show"):
        scored(pool[:4], [], proxy)
