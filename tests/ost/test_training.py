"""Training and evaluation: what a seed fixes, what counts as right, and what stops a run."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import copy_of, drawn, other_forms
from torch import nn

import ost
from ost import training
from ost.data import Sample, chat
from ost.encoding import Encoder, to_device
from ost.errors import TrainingError
from ost.evaluation import Generated, evaluate, generate
from ost.metrics import METRICS, metric_of
from ost.models import Checkpoint
from ost.settings import Execution
from ost.training import Recipe, Trained, train

# --- training ---------------------------------------------------------------------------------------------------------


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
    assert evaluate(checkpoint, few, match="whole").accuracy == 1.0, "learned by heart, but not said"


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

    monkeypatch.setattr("ost.training.Encoder", Recorder)
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


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "reference", "final", "whole"),
    [
        ("5 + 8 = 13", "5 + 8 = 13", True, True),
        ("6 + 7 = 13", "5 + 8 = 13", True, False),
        ("5 + 8 = 12", "5 + 8 = 13", False, False),
        ("13", "5 + 8 = 13", True, False),
        ("5 + 8 = 3 = 13", "5 + 8 = 13", True, False),
        ("5 + 8 = 13 ", " 5  + 8 = 13", True, True),
        ("5 + 8 = 1 3", "5 + 8 = 13", False, False),
        ("5 + 8 = 130", "5 + 8 = 13", False, False),
        ("5 - 8 = 3", "5 - 8 = -3", False, False),
        ("", "5 + 8 = 13", False, False),
        ("a cat", "a cat", True, True),
        ("a Cat", "a cat", False, False),
    ],
)
def test_matching_by_example(prediction, reference, final, whole):
    assert metric_of("final")(prediction, reference) is final
    assert metric_of("whole")(prediction, reference) is whole


@settings(max_examples=100)
@given(text=st.text(max_size=20), other=st.text(max_size=20), thought=st.text(max_size=10))
def test_matching_is_an_equivalence_that_whole_refines(text, other, thought):
    for matches in METRICS.values():
        assert matches(text, text)
        assert matches(text, other) == matches(other, text)
        assert matches(f"  {text}\n", text), "white space around the text decides"
    assert not metric_of("whole")(text, other) or metric_of("final")(text, other)
    assert metric_of("final")(f"{thought} = {other}", f"={other}")


def test_accuracy_counts_what_matches_whole_and_by_task(fresh, monkeypatch):
    benchmark = drawn("benchmark", 8)
    said = [sample.answer if index in (0, 1, 4) else "?" for index, sample in enumerate(benchmark)]
    monkeypatch.setattr("ost.evaluation.generate", lambda *args, **kwargs: Generated(said, 0, 0))
    result = evaluate(fresh, benchmark)
    assert [sample.task for sample in benchmark[:4]] == ["sum", "difference", "product", "maximum"]
    assert result.accuracy == 3 / 8
    assert result.by_task == {"sum": 1.0, "difference": 0.5, "product": 0.0, "maximum": 0.0}
    assert result.predictions == said


def test_answers_do_not_depend_on_the_batch(proxy):
    samples = [*drawn("benchmark", 5), *other_forms()]
    together = generate(proxy, samples, max_new_tokens=8).texts
    assert together == generate(proxy, samples, max_new_tokens=8, execution=Execution(batch_tokens=8)).texts
    assert together[::-1] == generate(proxy, samples[::-1], max_new_tokens=8, execution=Execution(batch_tokens=1)).texts


def test_greedy_answers_are_the_models_own_first_choice(proxy):
    """Decoded here token by token from the logits of the whole text, without any cache."""
    for sample in drawn("benchmark", 3):
        batch = Encoder(proxy.processor).prompts([sample])
        ids, image, end = batch.pop("input_ids"), proxy.processor.image_token_id, proxy.tokenizer.eos_token_id
        types, said = batch.pop("mm_token_type_ids", None), []
        while len(said) < 6 and end not in said:
            tail = torch.tensor([said], dtype=torch.long)
            whole = torch.cat([ids, tail], dim=1)
            extra = {} if types is None else {"mm_token_type_ids": torch.cat([types, torch.zeros_like(tail)], dim=1)}
            batch["attention_mask"] = torch.ones_like(whole)
            with torch.no_grad():
                logits = proxy.model(input_ids=whole, **batch, **extra).logits[0, -1]
            logits[[image, proxy.processor.video_token_id]] = -math.inf
            said.append(int(logits.argmax()))
        expected = proxy.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert generate(proxy, [sample], max_new_tokens=6).texts == [expected]


def test_sampling_follows_its_seed(fresh):
    samples = drawn("benchmark", 3)
    first, again, other = (
        generate(fresh, samples, temperature=1.0, seed=seed, max_new_tokens=6).texts for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


class Obsessed(nn.Module):
    """An output layer that wants one token above all others."""

    def __init__(self, head: nn.Module, token: int):
        super().__init__()
        self.head, self.token = head, token

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.head(hidden).clone()
        logits[..., self.token] += 1e4
        return logits


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_model_that_wants_to_say_an_image_still_answers_in_words(kind, temperature, fresh, monkeypatch):
    obsessed, token = copy_of(fresh), getattr(fresh.processor, f"{kind}_token_id")
    obsessed.model.lm_head = Obsessed(obsessed.model.lm_head, token)
    batch = to_device(Encoder(obsessed.processor).prompts(drawn("benchmark", 2)), obsessed.model.device)
    plain = obsessed.model.generate(**batch, max_new_tokens=1, do_sample=False)
    assert (plain[:, -1] == token).all(), "the model does not want the placeholder, so this test says nothing"

    emitted, original = [], obsessed.model.generate
    monkeypatch.setattr(obsessed.model, "generate", lambda **given: emitted.append(original(**given)) or emitted[-1])
    texts = generate(obsessed, drawn("benchmark", 2), max_new_tokens=5, temperature=temperature).texts
    assert len(texts) == 2
    assert not (emitted[0][:, batch["input_ids"].shape[1] :] == token).any()


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


def test_a_process_that_sees_several_accelerators_trains_on_one(tmp_path):
    arguments = training._arguments(
        Recipe(steps=1, batch_size=1, learning_rate=1e-3), str(tmp_path), torch.device("cpu")
    )
    arguments._n_gpu = 4
    training._keep_to_one_device(arguments)
    assert arguments.n_gpu == 1
