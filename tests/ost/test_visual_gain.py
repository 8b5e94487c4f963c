"""Visual gains against plain forward passes with and without images, and how the arm chooses by them."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from specimens import copy_of, drawn
from streamed import Streamed

from ost.arms import arm_of
from ost.baselines.visual_gain import visual_gain, with_visual_gain, without_images
from ost.data import Sample, chat
from ost.encoding import IGNORE, Encoder
from ost.errors import DataError
from ost.execution import batches
from ost.models import Checkpoint
from ost.selection import kept_ids
from ost.settings import Execution, Settings
from ost.store import lists
from ost.training import Recipe, train


def plain_loss(checkpoint: Checkpoint, images: tuple[bytes, ...], messages: list[dict]) -> float:
    """Mean loss of the answer tokens, by the model's own logits in float64."""
    batch = Encoder(checkpoint.processor).training([Sample(images, tuple(messages))])
    labels = batch.pop("labels")[0, 1:]
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(
            checkpoint.model(**inputs).logits[0, :-1], labels, ignore_index=IGNORE
        ).item()


def test_a_gain_is_the_loss_without_images_less_that_with_them(proxy, proxy64, pool):
    found = visual_gain(pool, proxy)
    for sample, gain, seen in zip(pool, found.gain, found.seen, strict=True):
        assert seen == bool(sample.images) != np.isnan(gain)
        if seen:
            told = [
                {"role": turn["role"], "content": [part for part in turn["content"] if part["type"] == "text"]}
                for turn in sample.messages
            ]
            with_them = plain_loss(proxy64, sample.images, list(sample.messages))
            assert gain == pytest.approx(plain_loss(proxy64, (), told) - with_them, abs=1e-4)
    assert 0 < (~found.seen).sum() < len(pool)


def test_without_its_images_a_sample_is_the_same_conversation():
    image = {"type": "image", "text": None}
    turns = ({"role": "user", "content": [image, image]}, *chat("Which?", "B", 0))
    blind = without_images(Sample((b"one", b"two"), turns, "which", "a"))
    assert blind.images == () and blind.messages[0] == {"role": "user", "content": [{"type": "text", "text": ""}]}
    assert blind.messages[1:] == turns[1:] and blind.learned == (2,) and blind.task == "which" and blind.id != "a"


@pytest.fixture(scope="module")
def seeing(proxy) -> Checkpoint:
    """A proxy that has learned to read some images by heart."""
    found = copy_of(proxy)
    train(found, drawn("pool", 24), Recipe(steps=120, batch_size=24, learning_rate=4e-3))
    return found


def test_right_samples_gain_more_than_those_with_anothers_image(seeing):
    right = drawn("pool", 24)
    wrong = [
        Sample(other.images, one.messages, one.task) for one, other in zip(right, right[1:] + right[:1], strict=True)
    ]
    gain = visual_gain(right + wrong, seeing).gain
    different = np.array([a.images != b.images for a, b in zip(right, wrong, strict=True)])
    assert (gain[:24] > gain[24:])[different].mean() > 0.8
    assert (gain[24:] < 0).mean() > 2 * (gain[:24] < 0).mean(), "a wrong image misleads"


def test_gains_do_not_depend_on_order_or_batch(proxy, pool):
    found, same = (visual_gain(pool[:24], proxy, Execution(batch_tokens=250), states=16) for _ in range(2))
    again = visual_gain(pool[:24][::-1], proxy, Execution(batch_tokens=45), states=16)
    np.testing.assert_allclose(found.gain, again.gain[::-1], atol=1e-4)
    np.testing.assert_allclose(found.states, again.states[::-1], atol=1e-4)
    np.testing.assert_array_equal(found.gain, same.gain)
    assert found.states.shape == (24, 16)


def test_a_window_of_the_pool_is_held_at_a_time(proxy, pool, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 8)
    streamed, how = Streamed(pool), Execution(batch_tokens=60)
    np.testing.assert_array_equal(visual_gain(streamed, proxy, how).gain, visual_gain(pool, proxy, how).gain)
    assert streamed.held == 0 and 0 < streamed.most <= 24 < len(pool)


def test_both_passes_are_counted_and_shown(proxy, pool):
    told, images = [], [sample for sample in pool if sample.images]
    some, more = (
        visual_gain(images[:count], proxy, progress=lambda *call: told.append(call)).cost for count in (8, 16)
    )
    assert some.flops * 1.5 < more.flops and some.seconds > 0
    assert told[-1] == (16, 16, "losses") and (16, 16, "losses with images") in told


def test_a_pool_without_images_says_so(proxy):
    text = [Sample((), chat("What is 3 + 4?", "7", 0), "sum")] * 3
    with pytest.raises(DataError, match=r"no sample of the pool has an image.*score\.visual_gain"):
        visual_gain(text, proxy)


def test_a_score_table_gets_a_column_and_keeps_the_rest(proxy, pool):
    before = pa.table({"id": [sample.id for sample in pool]}, metadata={"known": "yes"})
    table, found = with_visual_gain(before, pool, proxy)
    assert table.drop_columns("visual_gain").equals(before) and table.schema.metadata == before.schema.metadata
    assert table["visual_gain"].null_count == sum(not sample.images for sample in pool)
    known = [gain for gain in table["visual_gain"].to_pylist() if gain is not None]
    assert found.figures["visual_gain"] == pytest.approx(np.mean(known))
    assert found.figures["misleading"] == pytest.approx(np.mean(np.array(known) < 0))


# --- what is kept -----------------------------------------------------------------------------------------------------


def scored(each: int = 40) -> pa.Table:
    """Two kinds of sample, of which one gains ten times as much, and two samples without an image."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.eye(4)[:2], each, axis=0)
    sketches = np.concatenate([kinds + 1e-4 * rng.normal(size=kinds.shape), np.eye(4)[2:]])
    gains = [*(10 * rng.random(each) + 10), *rng.random(each), None, None]
    ids = [f"s{place:03d}" for place in range(len(sketches))]
    return pa.table({"id": ids, "score": gains, "sketch": lists(sketches.astype(np.float16))})


def test_the_highest_within_each_cluster_are_kept():
    table = scored()
    chosen = arm_of("visual-gain").choose(table, 0.25, Settings())
    kept = kept_ids(chosen)
    gains = dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True))
    assert len(kept) == 20 and [gains[name] for name in kept] == sorted((gains[name] for name in kept), reverse=True)
    assert sum(gains[name] > 5 for name in kept) == 10, "a kind that needs its images less has lost its share"
    reasons = chosen["reason"].to_pylist()
    assert reasons[-2:] == ["it has no image"] * 2 and "visual gain below the cut of its cluster" in reasons


def test_the_pools_order_plays_no_part_and_nothing_without_an_image_is_kept():
    table = scored()
    order = np.random.default_rng(1).permutation(len(table))
    arm = arm_of("visual-gain")
    assert kept_ids(arm.choose(table, 0.3, Settings())) == kept_ids(arm.choose(table.take(order), 0.3, Settings()))
    assert len(kept_ids(arm.choose(table, 1.0, Settings()))) == len(table) - 2
