"""How models are run: losses of answers alone, batches within memory, inputs encoded ahead."""

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import UnidentifiedImageError
from specimens import copy_of, drawn, other_forms
from torch import nn

import ost
from ost.data import Sample, chat
from ost.encoding import IGNORE
from ost.errors import DataError, ModelError
from ost.execution import loader
from ost.execution import losses as lean
from ost.execution.batches import Batches, Budget, approximate_tokens, batches_for
from ost.execution.forward import losses_of
from ost.execution.loader import Loader
from ost.execution.losses import AnswerLosses, gradients
from ost.settings import Execution


@pytest.fixture(scope="module")
def mixed():
    """No image, one, two; one turn and two; short and long."""
    return [*drawn("pool", 5, 5), *other_forms()]


@pytest.fixture(scope="module")
def batch(mixed, proxy64):
    return Loader(proxy64.processor).encoder.training(mixed)


def in_full(model, batch) -> list[torch.Tensor]:
    """Each sample's token losses, from all logits of the model."""
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    token = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    return [own[kept] for own, kept in zip(token, labels != IGNORE, strict=True)]


@pytest.mark.parametrize("logits", [1, 3000, 1 << 30], ids=["a row at a time", "some rows", "all at once"])
def test_losses_and_their_gradients_are_those_of_all_logits(logits, batch, proxy64, monkeypatch):
    monkeypatch.setitem(lean.LOGITS, "cpu", logits)
    model, expected = proxy64.model, in_full(proxy64.model, batch)
    found, tokens = AnswerLosses()(model, batch).by_sample()
    assert tokens.tolist() == [len(own) for own in expected]
    torch.testing.assert_close(found, torch.stack([own.mean() for own in expected]), rtol=1e-12, atol=0)
    sums, _ = AnswerLosses()(model, batch).by_sample("sum")
    torch.testing.assert_close(sums, torch.stack([own.sum() for own in expected]), rtol=1e-12, atol=0)
    weights = list(model.parameters())
    theirs = gradients(torch.stack([own.mean() for own in expected]).sum(), weights)
    for own, their in zip(gradients(found.sum(), weights), theirs, strict=True):
        torch.testing.assert_close(own, their, rtol=1e-9, atol=1e-12)


class Capped(nn.Module):
    """A model that does something to its logits behind its head, as many families do."""

    def __init__(self, model):
        super().__init__()
        self.model, self.dtype = model, model.dtype
        self.get_output_embeddings = model.get_output_embeddings

    def forward(self, **inputs):
        found = self.model(**inputs)
        found.logits = torch.tanh(found.logits / 2) * 2
        return found


def test_what_a_model_does_to_its_logits_behind_its_head_is_done(batch, proxy64):
    capped = Capped(proxy64.model)
    found, _ = AnswerLosses()(capped, batch).by_sample()
    torch.testing.assert_close(found, torch.stack([own.mean() for own in in_full(capped, batch)]), rtol=1e-12, atol=0)
    plain, _ = AnswerLosses()(proxy64.model, batch).by_sample()
    assert (found - plain).abs().max() > 1e-3


def test_a_turn_has_the_loss_of_its_own_tokens(batch, mixed, proxy64):
    losses = AnswerLosses()(proxy64.model, batch)
    turns, counts = losses.by_turn()
    assert counts.tolist() == [len(sample.learned) for sample in mixed] and max(counts) == 2
    samples, _ = losses.by_sample()
    once = torch.repeat_interleave(counts, counts) == 1
    torch.testing.assert_close(turns[once], samples[counts == 1])
    (two,) = (counts == 2).nonzero()[0].tolist()
    labels = batch["labels"][two, 1:] != IGNORE
    first = int(labels.nonzero()[0, 0])
    length = int((~labels[first:]).nonzero()[0, 0])
    assert turns[int(counts[:two].sum())].item() == pytest.approx(
        in_full(proxy64.model, batch)[two][:length].mean().item()
    )


def test_a_model_without_a_head_is_refused(batch, proxy64):
    headless = copy_of(proxy64)
    headless.model.get_output_embeddings = lambda: None
    with pytest.raises(ModelError, match="names no output head"):
        AnswerLosses()(headless.model, batch)


def test_batches_hold_no_more_than_their_budget_and_keep_their_order(mixed):
    sizes = [approximate_tokens(sample) for sample in mixed]
    for tokens in (1, 40, 100, 10_000):
        parts = list(Budget(tokens).batches(mixed))
        assert [sample for part in parts for sample in part] == mixed
        for part in parts:
            own = [sizes[mixed.index(sample)] for sample in part]
            assert len(part) == 1 or len(part) * max(own) <= tokens
    assert [len(part) for part in Budget(10_000, most=4).batches(mixed)] == [4, 4, 1]


def test_bytes_reach_only_the_decoders_that_images_may_have():
    """A file of a form that ingestion refuses, of which Pillow's reader may start a program."""
    with pytest.raises(UnidentifiedImageError):
        approximate_tokens(Sample((b"P6 8 8 255 " + bytes(192),), chat("What?", "this")))


def test_a_batch_that_runs_out_of_memory_is_halved_whatever_is_done_with_it(mixed, proxy):
    """By a device that holds two samples: all are done once, in order, and the budget stays what fitted."""
    batches, tried = batches_for(proxy), []

    def work(samples, batch):
        tried.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return [sample.id for sample in samples]

    found = batches.run(mixed, work)
    assert [one for part in found for one in part] == [sample.id for sample in mixed]
    assert tried[0] == len(mixed) and sum(size > 2 for size in tried) < 6
    assert batches.budget.tokens < 10 * max(map(approximate_tokens, mixed))


@pytest.mark.parametrize("processes", [0, 1])
def test_groups_are_encoded_on_and_stay_apart_where_memory_runs_out_between_them(processes, mixed, proxy):
    """By a device that holds two samples at first, and from the second group on one."""
    groups, begun, room = [mixed[:4], mixed[4:5], mixed[5:]], [], 2
    batches = Batches(Loader(proxy.processor, processes), proxy.model.device, Budget(10_000))

    def coming():
        for group in groups:
            begun.append(len(group))
            yield group

    def work(samples, batch):
        if len(samples) > room:
            raise torch.OutOfMemoryError("out of memory")
        return [sample.id for sample in samples]

    told, found = [], []
    for parts in batches.stream(coming(), work, told.append):
        found.append([one for part in parts for one in part])
        room = 1
    assert found == [[sample.id for sample in group] for group in groups]
    assert begun == [4, 1, 4], "no group is asked for twice"
    assert [told.count(len(group)) for group in groups[:1]] and told[-1] == 4
    assert all(one < other or other <= 2 for one, other in itertools.pairwise(told))


def test_results_come_back_in_the_samples_order(mixed, proxy):
    batches = Batches(Loader(proxy.processor), proxy.model.device, Budget(60))
    order: list[str] = []

    def work(samples, batch):
        order.extend(sample.id for sample in samples)
        return [sample.id for sample in samples]

    ids = [sample.id for sample in mixed]
    assert batches.run_sorted(mixed, work) == ids != order


def test_losses_are_the_same_whoever_encodes_and_however_much_goes_at_once(mixed, proxy):
    here = losses_of(mixed, proxy, Execution(encoders=0))
    there = losses_of(mixed, proxy, Execution(encoders=1))
    np.testing.assert_array_equal(here, there)
    np.testing.assert_allclose(losses_of(mixed, proxy, Execution(batch_tokens=1)), here, rtol=1e-5)


@pytest.mark.parametrize("method", ["lookahead", "transposed"])
def test_a_turn_has_the_utility_of_its_sample_with_the_other_turns_masked(method, mixed, proxy64, anchors):
    several = next(sample for sample in mixed if len(sample.learned) == 2)
    masked = [masked_but(several, turn) for turn in several.learned]
    changes = {"method": method, "checks": 0, "lookahead": {"steps": 2}, "optimizer": "sgd", "step": 1e-5}
    scored = ost.score([several, mixed[0]], anchors, proxy64, **changes)
    alone = ost.score(masked, anchors, proxy64, **changes).table
    turns = scored.turns.filter(pc.equal(scored.turns["id"], several.id))
    assert turns["turn"].to_pylist() == list(several.learned)
    for name in ("utility", "loss"):
        np.testing.assert_allclose(turns[name].to_numpy(), alone[name].to_numpy(), rtol=1e-6)
    (one,) = scored.turns.filter(pc.equal(scored.turns["id"], mixed[0].id)).to_pylist()
    (row,) = scored.table.filter(pc.equal(scored.table["id"], mixed[0].id)).to_pylist()
    assert one["utility"] == pytest.approx(row["utility"]) and one["loss"] == pytest.approx(row["loss"])
    if method == "lookahead":
        assert one["utility_relative"] == pytest.approx(row["utility_relative"])


def masked_but(sample: Sample, turn: int) -> Sample:
    messages = [
        message if at == turn or message["role"] == "user" else message | {"loss": False}
        for at, message in enumerate(sample.messages)
    ]
    return Sample(sample.images, tuple(messages), sample.task)


def test_gradients_tell_no_turns_apart(mixed, proxy, anchors):
    assert ost.score(mixed[:2], anchors[:4], proxy, method="gradient", checks=0).turns is None


@pytest.mark.parametrize(
    ("cores", "free", "expected"), [(16, 64 << 30, 14), (8, 64 << 30, 6), (16, 64 << 20, 0), (2, 64 << 30, 0)]
)
def test_as_many_processes_encode_as_cores_and_shared_memory_allow(cores, free, expected, monkeypatch):
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert loader.processes_for(torch.device("cuda")) == expected
    assert loader.processes_for(torch.device("cpu")) == 0


def test_an_encoding_process_that_is_killed_is_told_with_the_remedy(mixed, proxy, monkeypatch):
    own = loader.Loader(proxy.processor, processes=1)
    monkeypatch.setattr(loader, "AHEAD", 0)
    batches = own.ahead([[sample] for sample in mixed])
    next(batches)
    for process in own._pool._processes.values():
        process.kill()
    with pytest.raises(DataError, match=r"lower compute\.encoders"):
        list(batches)


def test_loaders_of_one_processor_share_their_processes(proxy, mixed):
    one, other = Loader(proxy.processor, 1), Loader(proxy.processor, 1, "prompts")
    alone = Loader(copy.copy(proxy.processor), 1)
    for own in (one, other):
        assert [len(part) for part, _ in own.ahead([mixed[:1]])] == [1]
    assert one._pool is other._pool and alone._pool is not one._pool
