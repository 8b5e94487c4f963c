"""Encoding: each answer is learned with its end, whatever template and tokenizer; what cannot be told apart is said."""

import re

import pytest
import templates
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import copy_of, drawn, other_forms

from ost.data import Sample, chat
from ost.encoding import IGNORE, Batch, Encoder
from ost.errors import DataError
from ost.evaluation.generate import generate

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def told(encoder: Encoder, sample: Sample) -> list[str]:
    """The stretches of a sample that are learned, as text."""
    batch = encoder.training([sample])
    return stretches(encoder, batch)


def stretches(encoder: Encoder, batch: Batch, row: int = 0) -> list[str]:
    labels = batch["labels"][row]
    places = (labels != IGNORE).nonzero().squeeze(1).tolist()
    assert all(batch["input_ids"][row, place] == labels[place] for place in places), "a label is not its own token"
    groups: list[list[int]] = []
    for place in places:
        if not groups or place != groups[-1][-1] + 1:
            groups.append([])
        groups[-1].append(place)
    return [encoder.tokenizer.decode(labels[group]) for group in groups]


def said(role: str, text: str, **more) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]} | more


def rounds(*texts: str) -> tuple[dict, ...]:
    """Questions and answers in turn."""
    return tuple(said("assistant" if at % 2 else "user", text) for at, text in enumerate(texts))


def mixed() -> list[Sample]:
    """One turn, several turns, no image, two images, answers of many lengths, in one batch."""
    return [*drawn("pool", 3), *other_forms()]


# --- the built-in model -----------------------------------------------------------------------------------------------


def test_labels_cover_exactly_the_answers(fresh):
    samples, encoder = mixed(), Encoder(fresh.processor)
    batch = encoder.training(samples)
    for row, sample in enumerate(samples):
        answers = ["".join(part["text"] for part in sample.messages[at]["content"]) for at in sample.learned]
        assert stretches(encoder, batch, row) == [f"{answer}<|im_end|>" for answer in answers]
        first = (batch["labels"][row] != IGNORE).nonzero()[0]
        assert encoder.tokenizer.decode(batch["input_ids"][row, :first]).endswith("<|im_start|>assistant\n")


def test_every_answer_of_a_chat_is_learned_but_what_is_context_alone(fresh):
    """REPORTS 6."""
    encoder, turns = Encoder(fresh.processor), rounds("One?", "first", "Two?", "second", "Three?", "third")
    assert told(encoder, Sample((), turns)) == ["first<|im_end|>", "second<|im_end|>", "third<|im_end|>"]
    some = [turn | ({"loss": False} if at in (1, 3) else {}) for at, turn in enumerate(turns)]
    assert told(encoder, Sample((), tuple(some))) == ["third<|im_end|>"]
    some = [turn | ({"loss": False} if at == 5 else {}) for at, turn in enumerate(turns)]
    assert told(encoder, Sample((), tuple(some))) == ["first<|im_end|>", "second<|im_end|>"]


def test_every_image_reaches_the_model(fresh):
    samples = mixed()
    batch = Encoder(fresh.processor).training(samples)
    images = [len(sample.images) for sample in samples]
    assert {0, 2} <= set(images)
    assert len(batch["image_grid_thw"]) == sum(images)
    # A 32 × 16 image is 4 × 2 patches of 8 pixels, merged 2 × 2 into 2 tokens.
    assert (batch["input_ids"] == fresh.processor.image_token_id).sum(dim=1).tolist() == [2 * count for count in images]


def test_training_pads_on_the_right_and_prompts_on_the_left(fresh):
    samples, encoder = mixed(), Encoder(fresh.processor)
    whole, prompts = encoder.training(samples)["attention_mask"], encoder.prompts(samples)["attention_mask"]
    for mask, ordered in ((whole, whole.sort(descending=True).values), (prompts, prompts.sort().values)):
        assert torch.equal(mask, ordered)
        assert (mask.sum(dim=1) < mask.shape[1]).any(), "no sample is padded, so this test says nothing"


def test_prompts_hold_no_answer(fresh):
    prompts = Encoder(fresh.processor).prompts([Sample((), chat("Which?", "secret", images=0))])
    assert "labels" not in prompts
    text = fresh.tokenizer.decode(prompts["input_ids"][0])
    assert text == "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_is_what_stands_before_the_label(fresh):
    encoder = Encoder(fresh.processor)
    for sample in mixed():
        whole, prompt = encoder.training([sample]), encoder.prompts([sample])["input_ids"][0].tolist()
        last = stretches(encoder, whole)[-1]
        count = len(encoder.tokenizer(last)["input_ids"])
        assert whole["input_ids"][0, :-count].tolist() == prompt


def test_a_row_is_encoded_alike_alone_and_in_a_batch(fresh):
    encoder, samples = Encoder(fresh.processor), mixed()
    batch = encoder.training(samples)
    for row, sample in enumerate(samples):
        alone = encoder.training([sample])
        length = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(batch[name][row, :length], alone[name][0]), name


# --- any template, any tokenizer --------------------------------------------------------------------------------------

TOKENIZERS = {
    "byte level": templates.byte_level,
    "SentencePiece, legacy": templates.sentencepiece,
    "SentencePiece": lambda template: templates.sentencepiece(template, legacy=False),
    "Unigram": templates.unigram,
}
# What two answers, "a cat" and "five", become by each template.
LEARNED = {
    "CHATML": ["a cat<|im_end|>", "five<|im_end|>"],
    "QWEN3": ["a cat<|im_end|>", "<think>\n\n</think>\n\nfive<|im_end|>"],
    "THINKING": ["\n</think>\n\na cat<|im_end|>", "\n</think>\n\nfive<|im_end|>"],
    "R1": ["a cat<|im_end|>", "five<|im_end|>"],
    "LLAMA2": [" a cat </s>", " five </s>"],
    "VICUNA": [" a cat", " five</s>"],
    "LLAVA15": [" a cat", " five</s>"],
    "ONEVISION": ["a cat<|im_end|>", "five<|im_end|>"],
    "GEMMA": ["a cat<end_of_turn>", "five<end_of_turn>"],
    "HARMONY": ["<|channel|>final<|message|>a cat", "<|channel|>final<|message|>five<|return|>"],
}


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_by_each_template(name):
    encoder = Encoder(templates.byte_level(getattr(templates, name)))
    assert told(encoder, Sample((), rounds("what is it?", "a cat", "and now?", "five"))) == LEARNED[name]
    assert told(encoder, Sample((), rounds("and now?", "five"))) == LEARNED[name][1:]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", LEARNED)
def test_every_tokenizer_learns_the_same_text(name, tokenizer):
    """REPORTS 3, 5: an answer tokenized alone has one "▁" more, and one that begins with "\\n" is merged."""
    encoder = Encoder(TOKENIZERS[tokenizer](getattr(templates, name)))
    for answers in (("a cat", "five"), (" a cat", "\nfive"), ("\n\na cat\n", "five ")):
        found = told(encoder, Sample((), rounds("what is it?", answers[0], "and now?", answers[1])))
        whole, plain = "".join(found).replace("<unk>", ""), "".join("".join(answers).split())
        marks = "|".join(map(re.escape, (*templates.SPECIAL, "<think>", "</think>")))
        assert "".join(re.sub(f"{marks}|final", "", whole).split()) == plain
        assert any(found[-1].endswith(end) for end in ("<|im_end|>", "</s>", "<end_of_turn>", "<|return|>"))


@settings(max_examples=60)
@given(answers=st.lists(TEXTS, min_size=1, max_size=3))
@pytest.mark.parametrize("name", ["CHATML", "R1", "ONEVISION", "VICUNA"])
def test_any_answer_is_learned_whole_with_its_end(answers, name, byte_level):
    encoder = byte_level[name]
    turns = rounds(*(text for answer in answers for text in ("what is it?", answer)))
    batch = encoder.training([Sample((), turns)])
    found = encoder.tokenizer.decode(batch["labels"][batch["labels"] != IGNORE])
    gap = {"VICUNA": " "}.get(name, "")
    end = {"VICUNA": ""}.get(name, "<|im_end|>")
    assert found == "".join(f"{gap}{answer}{end}" for answer in answers) + {"VICUNA": "</s>"}.get(name, "")


@pytest.fixture(scope="module")
def byte_level() -> dict[str, Encoder]:
    return {name: Encoder(templates.byte_level(getattr(templates, name))) for name in LEARNED}


def test_a_token_that_holds_the_end_of_the_prompt_and_the_answers_beginning_is_the_answers(fresh, monkeypatch):
    """A template that ends in "…assist": with an answer "ant" the tokenizer makes one word of both."""
    template = fresh.tokenizer.chat_template.replace("{{ message.role }}\n", "{{ message.role[:6] }}")
    monkeypatch.setattr(fresh.processor, "chat_template", template.replace("assistant\n", "assist"))
    assert told(Encoder(fresh.processor), Sample((), chat("q", "ant", images=0))) == ["assistant<|im_end|>"]


@settings(max_examples=60)
@given(question=TEXTS, answer=TEXTS)
def test_the_prompt_and_its_answer_are_the_whole(question, answer, byte_level):
    """Where tokens do not merge across their border, as behind a control token."""
    encoder = byte_level["R1"]
    template = encoder.tokenizer.chat_template.replace("<|assistant|><think>\n", "<|assistant|>")
    encoder = Encoder(templates.byte_level(template))
    sample = Sample((), rounds(question, answer))
    whole, prompt = encoder.training([sample]), encoder.prompts([sample])
    count = int((whole["labels"] != IGNORE).sum())
    assert whole["input_ids"][0, :-count].tolist() == prompt["input_ids"][0].tolist()


# --- reasoning --------------------------------------------------------------------------------------------------------


def test_reasoning_is_learned_where_the_template_writes_it(byte_level):
    asked = said("user", "what?")
    for name, text in (
        ("QWEN3", "<think>\nhm hm\n</think>\n\n7<|im_end|>"),
        ("THINKING", "hm hm\n</think>\n\n7<|im_end|>"),
    ):
        sample = Sample((), (asked, said("assistant", "7", reasoning_content="hm hm")))
        assert told(byte_level[name], sample) == [text]
    inside = Sample((), (asked, said("assistant", "<think>\nhm hm\n</think>\n\n7")))
    assert told(byte_level["QWEN3"], inside) == ["<think>\nhm hm\n</think>\n\n7<|im_end|>"]
    assert told(byte_level["CHATML"], inside) == ["<think>\nhm hm\n</think>\n\n7<|im_end|>"]


@pytest.mark.parametrize("name", ["CHATML", "R1", "VICUNA"])
def test_reasoning_that_a_template_drops_is_told(name, byte_level):
    sample = Sample((), (said("user", "what?"), said("assistant", "7", reasoning_content="hm hm")))
    with pytest.raises(DataError, match="drops the reasoning of a turn that is learned"):
        byte_level[name].training([sample])


def test_reasoning_of_an_earlier_turn_may_be_dropped_only_if_that_is_context(byte_level):
    """Qwen3 leaves the reasoning of earlier turns out."""
    for first in (said("assistant", "1", reasoning_content="aha"), said("assistant", "<think>\naha\n</think>\n\n1")):
        turns = (said("user", "a"), first, said("user", "b"), said("assistant", "2", reasoning_content="hm"))
        with pytest.raises(DataError, match=r"of an earlier turn, set data\.train_on: last"):
            byte_level["QWEN3"].training([Sample((), turns)])
        turns = (turns[0], first | {"loss": False}, *turns[2:])
        assert told(byte_level["QWEN3"], Sample((), turns)) == ["<think>\nhm\n</think>\n\n2<|im_end|>"]


# --- forms of content, templates and tokenizers -----------------------------------------------------------------------


def parts_only(template: str) -> str:
    return template.replace("{{ m.content }}", "{% for part in m.content %}{{ part['text'] }}{% endfor %}")


def test_a_template_that_wants_text_is_given_text_and_one_that_wants_parts_parts():
    for template in (templates.CHATML, parts_only(templates.CHATML)):
        encoder = Encoder(templates.byte_level(template))
        text = encoder.tokenizer.decode(encoder.training([Sample((), rounds("what?", "this"))])["input_ids"][0])
        assert text == "<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\nthis<|im_end|>"


def test_a_template_may_want_another_form_for_each_role():
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'user' %}{% for p in m.content %}{{ p['text'] }}{% endfor %}"
        "{% else %}{{ m.content + '' }}{% endif %}<|im_end|>\n{% endfor %}"
    )
    turns = (said("system", "be brief"), *rounds("what?", "this"))
    encoder = Encoder(templates.byte_level(template))
    text = encoder.tokenizer.decode(encoder.training([Sample((), turns)])["input_ids"][0])
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat?<|im_end|>")


def test_the_processors_template_comes_before_the_tokenizers(fresh, monkeypatch):
    """REPORTS 11: an export that keeps a text-only template in the tokenizer."""
    expected = Encoder(fresh.processor).training(drawn("pool", 2))
    monkeypatch.setattr(fresh.tokenizer, "chat_template", templates.CHATML)
    assert torch.equal(Encoder(fresh.processor).training(drawn("pool", 2))["input_ids"], expected["input_ids"])


def test_a_text_only_template_never_writes_how_parts_are_spelled(fresh, monkeypatch):
    monkeypatch.setattr(fresh.processor, "chat_template", templates.CHATML)
    encoder = Encoder(fresh.processor)
    text = fresh.tokenizer.decode(encoder.training([Sample((), rounds("what?", "this"))])["input_ids"][0])
    assert "type" not in text
    with pytest.raises(DataError, match="it has images, and the model's processor or chat template has no place"):
        encoder.training(drawn("pool", 1))


def test_the_default_of_several_templates_is_taken():
    tokenizer = templates.byte_level({"default": templates.CHATML, "tool_use": "{{ nothing }}"})
    assert told(Encoder(tokenizer), Sample((), rounds("what?", "this"))) == ["this<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('tools only') }}", "refuses the turns: TemplateError: tools only"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "what it writes does not hold them"),
        ("{% if %}", "TemplateSyntaxError"),
    ],
)
def test_a_template_that_is_of_no_use_is_refused_at_the_start(template, found):
    with pytest.raises(DataError, match=found):
        Encoder(templates.byte_level(template))


def test_what_a_template_refuses_or_leaves_out_is_told_by_sample(byte_level):
    good, told_off = Sample((), rounds("what?", "this")), Sample((), (said("system", "x"), *rounds("what?", "this")))
    with pytest.raises(DataError, match=f"sample {told_off.id}: .*System role not supported"):
        byte_level["GEMMA"].training([good, told_off])
    silent = templates.CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    with pytest.raises(DataError, match="does not write all of a turn of the system's"):
        Encoder(templates.byte_level(silent)).training([told_off])
    half = templates.CHATML.replace("{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else 'x' }}")
    with pytest.raises(DataError, match="cannot be told from its prompts"):
        Encoder(templates.byte_level(half)).training([Sample((), rounds("a", "one", "b", "two"))])


def test_a_tokenizer_without_a_pad_token_pads_with_its_end():
    """REPORTS 23."""
    tokenizer = templates.byte_level(pad_token=None)
    encoder = Encoder(tokenizer)
    short, long = Sample((), rounds("what?", "this")), Sample((), rounds("what else is there?", "that and this"))
    for batch, side in ((encoder.training([short, long]), -1), (encoder.prompts([short, long]), 0)):
        row = batch["input_ids"][0]
        assert row[side] == tokenizer.eos_token_id == encoder.pad_token_id
        assert not batch["attention_mask"][0, side]
        assert "labels" not in batch or batch["labels"][0, side] == IGNORE
    assert tokenizer.pad_token is None, "the tokenizer that will be saved was changed"


def test_a_tokenizer_without_any_end_is_refused():
    tokenizer = templates.byte_level(templates.VICUNA, eos_token=None)
    with pytest.raises(DataError, match="no model would stop"):
        Encoder(tokenizer).training([Sample((), rounds("what?", "this"))])


def test_a_tokenizer_that_knows_no_places_is_refused():
    tokenizer = templates.byte_level()
    type(tokenizer).is_fast, kept = property(lambda self: False), type(tokenizer).is_fast
    try:
        with pytest.raises(DataError, match="save the checkpoint with a fast tokenizer"):
            Encoder(tokenizer)
    finally:
        type(tokenizer).is_fast = kept


# --- what a model wrote -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written", "answer"),
    [
        ("CHATML", "7", "7"),
        ("CHATML", "<think>\nwell\n</think>\n\n7", "7"),
        ("CHATML", "<think>\nwell, it goes on", "<think>\nwell, it goes on"),
        ("QWEN3", "<think>\n\n</think>\n\n7", "7"),
        ("QWEN3", "<think>\n5 or </think> 6?\n</think>\n\n7", "7"),
        ("THINKING", "\n</think>\n\n7", "7"),
        ("THINKING", "five or six\n</think>\n\n7", "7"),
        ("HARMONY", "<|channel|>final<|message|>7", "7"),
        ("HARMONY", "<|channel|>analysis<|message|>well<|end|><|start|>assistant<|channel|>final<|message|>7", "7"),
        ("VICUNA", " 7", "7"),
    ],
)
def test_an_answer_is_what_stands_behind_the_reasoning(name, written, answer, byte_level):
    """REPORTS 4: "<think>\\n\\n</think>\\n\\n7" is compared as "7"."""
    encoder = byte_level[name]
    ends = encoder.tokenizer.convert_ids_to_tokens(encoder.end_token_ids)
    tokens = encoder.tokenizer(written + ends[0] + "<pad>", add_special_tokens=False)["input_ids"]
    assert encoder.answers([tokens]) == [answer]


@pytest.mark.parametrize("name", LEARNED)
def test_what_is_learned_ends_with_a_token_that_ends_an_answer_and_is_read_back(name, byte_level):
    encoder = byte_level[name]
    batch = encoder.training([Sample((), rounds("what is it?", "a cat"))])
    learned = batch["labels"][0][batch["labels"][0] != IGNORE].tolist()
    assert learned[-1] in encoder.end_token_ids
    assert encoder.answers([learned]) == ["a cat"]


def test_an_end_that_is_no_special_token_is_no_part_of_the_answer():
    tokenizer = templates.byte_level(templates.CHATML.replace("<|im_end|>", "<|eot|>"))
    tokenizer.add_tokens(["<|eot|>"])
    encoder = Encoder(tokenizer)
    assert encoder.answers([tokenizer("a cat<|eot|>\nand more")["input_ids"]]) == ["a cat"]


def test_generated_texts_are_answers(fresh, monkeypatch):
    """What stands in the model's way to its answer is not compared with the reference."""
    copied, tokenizer = copy_of(fresh), fresh.tokenizer
    written = tokenizer("<think>5?</think>\n7<|im_end|>", return_tensors="pt")["input_ids"]
    asked: dict = {}

    def generate_(input_ids, **options):
        asked.update(options)
        return torch.cat([input_ids, written.expand(len(input_ids), -1)], dim=1)

    monkeypatch.setattr(copied.model, "generate", generate_)
    assert generate(copied, drawn("benchmark", 2)).texts == ["7", "7"]
    told = asked["generation_config"]
    assert told.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert told.pad_token_id == tokenizer.pad_token_id
