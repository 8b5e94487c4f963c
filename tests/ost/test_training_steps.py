"""A step of training: the whole batch's gradient in any number of parts and processes, and a kill undoes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from specimens import copy_of, drawn, other_forms
from transformers import Trainer, TrainingArguments

from ost.data import Sample, chat, write_samples
from ost.encoding import Encoder
from ost.errors import ModelError
from ost.execution.losses import AnswerLosses
from ost.models import Checkpoint, add_adapter, in_float64
from ost.settings import Execution
from ost.training import Recipe, Saved, train

RECIPE = Recipe(steps=6, batch_size=6, learning_rate=2e-3)
AT_ONCE, ONE_BY_ONE = Execution(batch_tokens=10**6), Execution(batch_tokens=1)


@pytest.fixture(scope="module")
def lessons() -> list[Sample]:
    """Of very different length, with images, several and none."""
    long = Sample((), chat("Say it all.", "1 2 3 4 5 6 7 8 9 + 1 + 2 + 3 = 6", images=0))
    return [*drawn("pretrain", 14), *other_forms(), long]


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in checkpoint.model.named_parameters()}


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((value - other[name]).abs().max().item() for name, value in one.items())


# --- one gradient -----------------------------------------------------------------------------------------------------


def test_the_gradient_of_parts_is_that_of_the_whole_batch(fresh, lessons):
    """Written by hand from the model's own logits: the mean over all answer tokens, in float64."""
    first, own = replace(RECIPE, steps=1, batch_size=len(lessons)), in_float64(fresh)
    parts = train(in_float64(fresh), lessons, first, execution=ONE_BY_ONE).moments.first
    total, count = 0.0, 0
    for sample in lessons:
        batch = Encoder(own.processor).training([sample])
        labels = batch.pop("labels")[:, 1:]
        batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
        losses = torch.nn.functional.cross_entropy(
            own.model(**batch).logits[0, :-1], labels[0], ignore_index=-100, reduction="none"
        )
        total, count = total + losses.sum(), count + int((labels != -100).sum())
    weights = {name: weight for name, weight in own.model.named_parameters() if name in parts}
    gradient = torch.autograd.grad(total / count, list(weights.values()), allow_unused=True, materialize_grads=True)
    norm = torch.cat([part.flatten() for part in gradient]).norm()
    expected = {name: 0.1 * part / max(1.0, norm + 1e-6) for name, part in zip(weights, gradient, strict=True)}
    assert differ(expected, parts) < 1e-10 * max(1.0, norm)
    whole = train(in_float64(fresh), lessons, first, execution=AT_ONCE).moments.first
    assert differ(whole, parts) < 1e-10


def test_the_weights_are_those_of_the_trainer_of_transformers(fresh, lessons, tmp_path):
    ours, theirs = copy_of(fresh), copy_of(fresh)
    train(ours, lessons, RECIPE, execution=Execution(batch_tokens=200))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=RECIPE.steps,
        per_device_train_batch_size=RECIPE.batch_size,
        learning_rate=RECIPE.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=RECIPE.warmup_steps,
        data_seed=0,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    collate = Encoder(theirs.processor).training
    Trainer(model=theirs.model, args=arguments, train_dataset=lessons, data_collator=collate).train()
    moved = differ(weights_of(fresh), weights_of(theirs))
    assert differ(weights_of(ours), weights_of(theirs)) < 2e-3 * moved


@pytest.mark.parametrize("rank", [0, 4])
def test_activations_computed_anew_give_the_same_weights(rank, fresh, lessons):
    found = []
    for anew in (False, True):
        own = copy_of(fresh)
        if rank:
            add_adapter(own.model, rank, 0)
        train(own, lessons, replace(RECIPE, gradient_checkpointing=anew))
        assert not any(getattr(module, "gradient_checkpointing", False) for module in own.model.modules())
        found.append(weights_of(own))
    assert differ(*found) < 1e-6


def test_a_step_that_runs_out_of_memory_is_taken_in_halves(fresh, lessons, monkeypatch):
    """Also where gradients of the batch that did not fit are there already."""
    expected, own, sizes = copy_of(fresh), copy_of(fresh), []
    train(expected, lessons, RECIPE, execution=AT_ONCE)

    class Small(AnswerLosses):
        def __call__(self, model, batch):
            found = super().__call__(model, batch)
            sizes.append(len(batch["input_ids"]))
            if sizes[-1] > 2:
                found.values.sum().backward()
                raise torch.OutOfMemoryError("too much")
            return found

    monkeypatch.setattr("ost.training.loop.AnswerLosses", Small)
    train(own, lessons, RECIPE, execution=AT_ONCE)
    assert max(sizes) > 2 and sizes[-1] <= 2
    assert differ(weights_of(expected), weights_of(own)) < 1e-5


def test_a_sample_that_does_not_fit_alone_is_named(fresh, lessons, monkeypatch):
    class Full(AnswerLosses):
        def __call__(self, model, batch):
            raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr("ost.training.loop.AnswerLosses", Full)
    with pytest.raises(ModelError, match="does not fit the device's memory"):
        train(copy_of(fresh), lessons, RECIPE)


def test_an_epoch_takes_every_sample_once_and_the_next_in_another_order():
    steps = list(Recipe(steps=8, batch_size=3, learning_rate=1.0).order(10))
    first, second = ([place for step in part for place in step] for part in (steps[:4], steps[4:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert list(Recipe(steps=8, batch_size=3, learning_rate=1.0).order(10, 5)) == steps[5:]


# --- killed and gone on with ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_training_goes_on_where_it_was_saved_to_the_same_weights(at, fresh, lessons, tmp_path, monkeypatch):
    monkeypatch.setattr("ost.training.saved.LEAST", 0.0)
    monkeypatch.setattr("ost.training.saved.SHARE", 1e9)
    expected, own = copy_of(fresh), copy_of(fresh)
    plain, saved = train(expected, lessons, RECIPE), Saved(tmp_path / "training.safetensors", "one")

    def kill(done: int, total: int, note: str) -> None:
        if done == at + 1:
            raise Killed

    with pytest.raises(Killed):
        train(own, lessons, RECIPE, kill, saved=saved)
    torch.rand(3)
    seen: list[int] = []
    again = train(copy_of(fresh), lessons, RECIPE, lambda done, *_: seen.append(done), saved=saved)
    assert seen == list(range(at + 1, RECIPE.steps + 1)), "what was done is done again"
    assert again.losses == plain.losses
    assert all(torch.equal(moment, plain.moments.first[name]) for name, moment in again.moments.first.items())
    saved.forget()
    assert not list(tmp_path.iterdir())


def test_another_training_is_not_gone_on_with(fresh, lessons, tmp_path, monkeypatch):
    monkeypatch.setattr("ost.training.saved.LEAST", 0.0)
    monkeypatch.setattr("ost.training.saved.SHARE", 1e9)
    train(copy_of(fresh), lessons, RECIPE, saved=Saved(tmp_path / "training.safetensors", "one"))
    seen: list[int] = []
    other = Saved(tmp_path / "training.safetensors", "other")
    train(copy_of(fresh), lessons, RECIPE, lambda done, *_: seen.append(done), saved=other)
    assert seen[0] == 1


SCRIPT = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
import ost.training.saved as kept
from ost.data import Dataset
from ost.models import load_checkpoint
from ost.training import Recipe, Saved, train

kept.LEAST, kept.SHARE = 0.0, 1e9
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
own = load_checkpoint(folder / "model")
recipe = Recipe(steps=20, batch_size=6, learning_rate=2e-3)
saved = Saved(out.with_suffix(".saved"), "one") if "--saved" in sys.argv else None
result = train(own, Dataset(folder / "lessons.parquet"), recipe, saved=saved)
weights = {name: weight.detach().clone() for name, weight in own.model.named_parameters()}
if torch.distributed.is_initialized() and torch.distributed.get_rank():
    out = out.with_suffix(".other")
save_file(weights, out)
out.with_suffix(".json").write_text(json.dumps(result.losses))
"""


@pytest.fixture(scope="module")
def place(fresh, lessons, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    fresh.save(folder / "model")
    write_samples(folder / "lessons.parquet", lessons)
    (folder / "script.py").write_text(SCRIPT)
    return folder


@pytest.fixture(scope="module")
def undisturbed(place) -> dict[str, torch.Tensor]:
    command = [sys.executable, str(place / "script.py"), str(place), str(place / "plain.safetensors")]
    subprocess.run(command, check=True, capture_output=True)
    return load_file(place / "plain.safetensors")


def test_kill_9_at_random_moments_gives_the_same_weights(place, undisturbed):
    out, rng, kills = place / "killed.safetensors", np.random.default_rng(), int(os.environ.get("OST_TEST_KILLS", "2"))
    command = [sys.executable, str(place / "script.py"), str(place), str(out), "--saved"]
    saved = out.with_suffix(".saved")
    for _ in range(kills):
        was = saved.stat().st_mtime_ns if saved.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not saved.exists() or saved.stat().st_mtime_ns == was):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    found = load_file(out)
    assert all(torch.equal(weight, undisturbed[name]) for name, weight in found.items())


def test_two_processes_come_to_what_one_comes_to(place, undisturbed):
    """With a last batch of an epoch that is smaller than the others, and one sample alone."""
    out = place / "two.safetensors"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(place / "script.py"), str(place), str(out)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((place / f"{name}.json").read_text()) for name in ("plain", "two"))
    np.testing.assert_allclose(one, two, atol=1e-5)
    first, second = load_file(out), load_file(out.with_suffix(".other"))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items()), "the processes drift apart"
    assert differ(first, undisturbed) < 1e-3
