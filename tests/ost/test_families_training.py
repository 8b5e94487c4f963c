"""Every family that can be scored with can be trained, by an adapter and by all weights, saved, reloaded, and asked."""

import copy
import functools

import pytest
import torch
from families import Family, build
from test_families import FEW, SCORED
from transformers import GenerationConfig

from ost.evaluation.generate import searched_as_told
from ost.execution.losses import AnswerLosses
from ost.models.adapter import add_adapter, freeze_but_language, load_adapter, save_adapter

SLOW = ("emu3",)
"""Seconds a step, and alike to others."""


@functools.cache
def family(name: str) -> Family:
    return build(name)


@pytest.fixture(scope="module", autouse=True)
def _forgotten():
    yield
    family.cache_clear()


def loss_of(model, batch) -> torch.Tensor:
    return AnswerLosses()(model, batch).values.mean()


@pytest.mark.parametrize("name", [name for name in SCORED if name not in SLOW])
def test_a_step_is_taken_and_kept_by_an_adapter_and_by_all_weights(name, tmp_path):
    own = family(name)
    batch = own.encode(FEW[:2])
    for method in ("lora", "full")[: 2 if SCORED.index(name) % 4 == 0 else 1]:
        model = copy.deepcopy(own.model)
        model.name_or_path = str(tmp_path)
        if method == "lora":
            add_adapter(model, 4, 0, "language")
        else:
            freeze_but_language(model)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        assert weights, "nothing would be trained"
        optimizer = torch.optim.AdamW(weights, lr=1e-2)
        model.train()
        losses = []
        for _ in range(2):
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            after = loss_of(model, batch)
        assert after < losses[0], f"two steps by {method} learn nothing: {losses}, {after}"
        again = copy.deepcopy(own.model)
        if method == "lora":
            save_adapter(model, tmp_path / "adapter", tmp_path / "adapter")
            load_adapter(again, tmp_path / "adapter")
        else:
            again.load_state_dict(model.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(loss_of(again.eval(), batch), after)


@pytest.mark.parametrize("name", [name for name in SCORED if name not in SLOW])
def test_an_answer_is_what_passes_over_the_whole_text_rank_first(name):
    """Token by token, with what `generate` keeps of the pass before; images go in with the prompt alone."""
    own = family(name)
    batch = own.encode([FEW[0]])
    start = int((batch["labels"][0] >= 0).nonzero()[0])
    prompt = {
        key: value[:, :start] if value.shape[:2] == batch["labels"].shape else value
        for key, value in batch.items()
        if key != "labels"
    }
    settings = GenerationConfig(
        max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=[2], suppress_tokens=[own.place]
    )
    with torch.no_grad(), searched_as_told(own.model):
        said = own.model.generate(**prompt, generation_config=settings)[0, start:].tolist()
        whole = own.encode([FEW[0]])
        whole["input_ids"][0, start : start + len(said)] = torch.tensor(said)[: whole["input_ids"].shape[1] - start]
        whole.pop("labels")
        ranked = own.model(**whole).logits[0, start - 1 : start - 1 + len(said)]
        ranked[:, own.place] = -torch.inf
    assert said == ranked.argmax(dim=-1).tolist()
