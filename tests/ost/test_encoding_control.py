"""Control tokens: text that spells one is encoded as text, in any part of any message, by any tokenizer."""

import re

import pytest
import templates
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processors import FAMILIES
from test_encoding import TEXTS, TOKENIZERS, rounds, said, told

from ost.data import Sample
from ost.encoding import IGNORE, Encoder
from ost.encoding.control import ALIASES, BLOCK, BLOCKS, Marks
from ost.errors import DataError

SPELLED = st.lists(st.one_of(st.sampled_from(templates.SPECIAL), TEXTS), min_size=1, max_size=5).map("".join)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: Encoder(build(templates.CHATML)) for name, build in TOKENIZERS.items()}


def special_of(encoder: Encoder, sample: Sample) -> list[str]:
    """The special tokens of an encoded sample, in order; the one for what is unknown is none."""
    ids = encoder.training([sample])["input_ids"][0].tolist()
    special = set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}
    special |= set(encoder.tokenizer.convert_tokens_to_ids(list(templates.SPECIAL[1:])))
    return encoder.tokenizer.convert_ids_to_tokens([token for token in ids if token in special])


@settings(max_examples=80)
@given(system=SPELLED, question=SPELLED, answer=SPELLED)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_never_changes_which_control_tokens_there_are(name, system, question, answer, encoders):
    turns = (said("system", system), *rounds(question, answer))
    assert special_of(encoders[name], Sample((), turns)) == ["<|im_start|>", "<|im_end|>"] * 3


@settings(max_examples=120)
@given(question=SPELLED, answer=SPELLED)
def test_an_answer_that_spells_control_tokens_is_learned_as_it_stands(question, answer, encoders):
    assert told(encoders["byte level"], Sample((), rounds(question, answer))) == [f"{answer}<|im_end|>"]


@settings(max_examples=60)
@given(
    before=SPELLED.filter(lambda text: "think>" not in text), after=SPELLED.filter(lambda text: "think>" not in text)
)
def test_the_text_around_is_encoded_as_without_them(before, after, encoders):
    """One pass over the whole: what stands beside a spelled token isn't the start of a text."""
    encoder = encoders["SentencePiece, legacy"]
    (learned,) = told(encoder, Sample((), rounds("what?", f"{before} <|im_end|> {after}")))
    assert learned == f"{before} <|im_end|> {after}<|im_end|>"


def test_what_spells_none_is_encoded_as_ever(encoders):
    for encoder in encoders.values():
        plain = "<|im_start|>user\nwhat? < | s > im_end<|im_end|>\n<|im_start|>assistant\nthis</ s><|im_end|>"
        expected = encoder.tokenizer(plain, add_special_tokens=False)["input_ids"]
        batch = encoder.training([Sample((), rounds("what? < | s > im_end", "this</ s>"))])
        assert batch["input_ids"][0].tolist() == expected


def test_a_batch_may_mix_them(encoders):
    for encoder in encoders.values():
        samples = [Sample((), rounds("what?", text)) for text in ("this", "</s> <|im_end|>", "a cat", "<s>")]
        batch, alone = encoder.training(samples), [encoder.training([sample]) for sample in samples]
        for row, own in enumerate(alone):
            for name in ("input_ids", "labels", "attention_mask"):
                assert torch.equal(batch[name][row, : own[name].shape[1]], own[name][0]), name


def test_prompts_are_protected_too(encoders):
    prompt = encoders["byte level"].prompts([Sample((), rounds("say <|im_end|>", "no"))])["input_ids"][0]
    end = encoders["byte level"].tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (prompt == end).sum() == 1
    assert "say <|im_end|>" in encoders["byte level"].tokenizer.decode(prompt)


def test_a_token_that_is_not_special_is_text_that_a_model_may_write(encoders):
    """`<think>` in an answer is the token; where a tokenizer counts it as special, it is text."""
    encoder = encoders["byte level"]
    think = encoder.tokenizer.convert_tokens_to_ids("<think>")
    sample = Sample((), rounds("what?", "<think>hm</think>this"))
    assert think in encoder.training([sample])["labels"][0]
    tokenizer = templates.byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    assert think not in Encoder(tokenizer).training([sample])["labels"][0]


def test_an_added_token_that_the_template_writes_is_control_though_not_special():
    tokenizer = templates.byte_level(templates.CHATML.replace("<|im_end|>", "<|eot|>").replace("<|im_start|>", "<|h|>"))
    tokenizer.add_tokens(["<|eot|>", "<|h|>", "<|note|>"])
    batch = Encoder(tokenizer).training([Sample((), rounds("a <|eot|>", "b <|h|> <|note|>"))])
    ids = batch["input_ids"][0].tolist()
    counts = [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in ("<|eot|>", "<|h|>", "<|note|>")]
    assert counts == [2, 2, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_processor_takes_spelled_placeholders_for_images(name):
    processor = FAMILIES[name]()
    encoder = Encoder(processor)
    special = [token.content for token in encoder.tokenizer.added_tokens_decoder.values() if token.special]
    text = "".join(special)
    plain, spelled = (Sample((), rounds(f"q{own}", f"a{own}")) for own in ("", text))
    counts = []
    for sample in (plain, spelled):
        ids = encoder.training([sample])["input_ids"][0].tolist()
        counts.append(sorted(token for token in ids if token in encoder.tokenizer.added_tokens_decoder))
    assert counts[0] == counts[1]
    batch = encoder.training([spelled])
    assert text in encoder.tokenizer.decode(batch["labels"][batch["labels"] != IGNORE])


def test_a_text_that_spells_an_alias_is_refused(encoders):
    """The one way left to forge a control token: a private character that stands for the first of one's own."""
    forged = Sample((), rounds("what?", f"{chr(ALIASES)}/s> and </s>"))
    with pytest.raises(DataError, match="the tokenizer has no other way to write it"):
        encoders["byte level"].training([forged])


# --- marks ------------------------------------------------------------------------------------------------------------

PRIVATE = st.text(st.characters(min_codepoint=0x0FFFF0, max_codepoint=0x10FFFD), max_size=8)


@settings(max_examples=60)
@given(question=PRIVATE, answer=PRIVATE.map(lambda text: f"a</s>{text}b"))
def test_texts_may_hold_private_characters_themselves(question, answer, encoders):
    assert told(encoders["byte level"], Sample((), rounds(question, answer))) == [f"{answer}<|im_end|>"]


def test_marks_that_stand_in_a_text_are_not_used():
    marks = Marks(re.compile("<s>"), "<")
    first = "".join(chr(BLOCKS[0] + at) for at in range(BLOCK))
    assert marks.fresh_for(["a", first[3]]).first == BLOCKS[1]
    assert marks.fresh_for(["a", "é"]) is marks
    with pytest.raises(DataError, match="private plane"):
        marks.fresh_for([chr(block) for block in BLOCKS])


@given(text=SPELLED)
def test_what_is_hidden_comes_back_and_keeps_its_length(text):
    tokens = sorted(templates.SPECIAL, key=len, reverse=True)
    marks = Marks(re.compile("|".join(map(re.escape, tokens))), "<[").fresh_for([text])
    hidden = marks.hide(text)
    assert len(hidden) == len(text)
    assert marks.show(hidden) == text
    assert not any(token in hidden for token in tokens)


@given(text=TEXTS, cuts=st.lists(st.integers(0, 30), min_size=2, max_size=6))
def test_spans_come_back_wherever_they_were_carried(text, cuts):
    marks = Marks(re.compile("(?!)"), "").fresh_for([text])
    ends = sorted(min(cut, len(text)) for cut in cuts[: len(cuts) // 2 * 2])
    spans = list(zip(ends[::2], ends[1::2], strict=True))
    marked = marks.around(text, spans)
    assert marks.spans(marked) == (text, spans)
    assert marks.spans(f"<s>{marked}!") == (f"<s>{text}!", [(start + 3, end + 3) for start, end in spans])
