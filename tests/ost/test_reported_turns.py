"""What people met whose pools have turns, templates and tokenizers of their own, from the file to the labels."""

import json

import pytest
import torch
from pools import SETTINGS, data_url, encoded, learned, record, shown, talk, write_jsonl
from processors import FAMILIES

from ost.encoding import IGNORE, Encoder
from ost.models import Checkpoint, load_processor
from ost.worlds.tiny import build_processor

A, B = encoded(seed=1), encoded(seed=2)
LONG = SETTINGS.model_copy(update={"max_tokens": 4096})


@pytest.fixture
def encoder(model_folder) -> Encoder:
    return Encoder(load_processor(model_folder))


def test_every_answer_is_learned_or_the_last_alone_and_the_share_of_context_is_told(take, tmp_path, encoder):
    pool = write_jsonl(
        tmp_path, [talk("<image>How many?", "3", "Its colour?", "red", image=data_url(A)), talk("Hi?", "hi")]
    )
    every = take(pool=pool)
    assert [learned(encoder, sample) for sample in every["pool"]] == [
        ["3<|im_end|>", "red<|im_end|>"],
        ["hi<|im_end|>"],
    ]
    assert not any("context alone" in note for note in every.warnings)
    last = take(SETTINGS.model_copy(update={"train_on": "last"}), pool=pool)
    assert [learned(encoder, sample) for sample in last["pool"]] == [["red<|im_end|>"], ["hi<|im_end|>"]]
    assert any(note.startswith("pool: 33% of the assistant's turns are context alone") for note in last.warnings)
    for result in (every, last):
        counts = result["pool"].table(["learned"])["learned"].to_pylist()
        batch = encoder.training(list(result["pool"]))
        assert counts == (batch["labels"] != IGNORE).sum(dim=1).tolist()


@pytest.mark.parametrize("answer", ["\n7", "\n\n7", " 7", "7 "])
def test_an_answer_that_begins_with_white_space_is_learned(answer, fresh, take, tmp_path):
    processor = build_processor(["assistant\n\n", "assistant\n\n\n", "a\n\nb"] * 30)
    Checkpoint(fresh.model, processor).save(tmp_path / "model")
    take.model = tmp_path / "model"
    (sample,) = take(LONG, pool=[talk("What?", answer)], anchors=[talk("A?", "1")], benchmark=[talk("B?", "1")])["pool"]
    (found,) = learned(Encoder(load_processor(take.model)), sample)
    assert found.endswith(f"{answer}<|im_end|>") and found.strip().startswith("7")


THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}<think>\n{{ message.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_a_template_that_thinks_learns_what_is_to_be_generated(fresh, take, tmp_path):
    processor = build_processor(["What?"])
    processor.chat_template = processor.tokenizer.chat_template = THINKING
    Checkpoint(fresh.model, processor).save(tmp_path / "model")
    take.model = tmp_path / "model"
    thought = [{"role": "user", "content": "7?"}, {"role": "assistant", "content": "7", "reasoning_content": "3 + 4"}]
    plain, thinking = take(LONG, pool=[talk("What?", "7"), {"messages": thought}])["pool"]
    encoder = Encoder(load_processor(take.model))
    assert learned(encoder, plain) == ["\n</think>\n\n7<|im_end|>"] and plain.answer == "7"
    assert learned(encoder, thinking) == ["3 + 4\n</think>\n\n7<|im_end|>"] and thinking.answer == "7"


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(fresh, take, tmp_path):
    processor = build_processor(["What?"])
    processor.tokenizer.pad_token = None
    Checkpoint(fresh.model, processor).save(tmp_path / "model")
    take.model = tmp_path / "model"
    assert load_processor(take.model).tokenizer.pad_token is None
    samples = list(take(LONG, pool=[talk("a?", "1"), talk("a longer one?", "a longer one")])["pool"])
    batch = Encoder(load_processor(take.model)).training(samples)
    assert len(samples) == 2 and batch["attention_mask"].sum(dim=1).unique().numel() == 2


def test_the_processors_template_comes_first(fresh, take, tmp_path, encoder):
    fresh.save(tmp_path / "model")
    config = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    text_only = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(config | {"chat_template": text_only}))
    take.model = tmp_path / "model"
    (sample,) = take(pool=[record(images=[data_url(A)])])["pool"]
    assert shown(Encoder(load_processor(take.model)), sample) == shown(encoder, sample)


@pytest.mark.parametrize("family", ["idefics3", "gemma3", "llava", "qwen3_vl"])
def test_a_batch_mixes_samples_without_with_one_and_with_several_images(family, take):
    pool = [talk("a?", "1"), record("b?"), record("c?", images=[data_url(A), data_url(B)])]
    samples = list(take(LONG, pool=pool)["pool"])
    batch = Encoder(FAMILIES[family]()).training(samples)
    assert batch["input_ids"].shape[0] == 3 and torch.all((batch["labels"] != IGNORE).any(dim=1))
