"""Real processors of many families: batches of any mixture, labels on the answers, and sizes that tell the tokens."""

import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from processors import FAMILIES
from specimens import drawn, other_forms
from test_encoding import rounds, said, told
from test_encoding_control import SPELLED

from ost.data import Sample, chat
from ost.data.picture import size_of
from ost.encoding import IGNORE, Encoder, Measured
from ost.errors import DataError

PICTURE = {"type": "image", "text": None}
PER_ROW = ("input_ids", "attention_mask", "labels", "token_type_ids", "mm_token_type_ids")


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: Encoder(build()) for name, build in FAMILIES.items()}


def png(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng([width, height, seed]).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def asked(answer: str, *images: bytes, question: str = "what is it?") -> Sample:
    return Sample(images, chat(question, answer, len(images)))


def later() -> Sample:
    """An image in each of two rounds."""
    first, second = (
        {"role": "user", "content": [PICTURE, *said("user", text)["content"]]} for text in ("one?", "two?")
    )
    return Sample((png(40, 40), png(90, 20)), (first, said("assistant", "\nred "), second, said("assistant", " blue")))


def specimens() -> list[Sample]:
    """With one image, with two, without any, with one in each of two rounds."""
    return [asked("a cat", png(40, 40)), asked("left", png(64, 32), png(32, 48)), asked("five"), later()]


def learned_text(encoder: Encoder, batch: dict, row: int) -> str:
    return encoder.tokenizer.decode(batch["labels"][row][batch["labels"][row] != IGNORE])


def tokens_beyond(batch: dict, row: int) -> dict:
    return {name: batch[name][row] for name in PER_ROW if name in batch}


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_any_mixture_encodes_each_sample_as_alone(name, encoders):
    """REPORTS 2: a text without an image beside one with one."""
    encoder, samples = encoders[name], specimens()
    alone = [tokens_beyond(encoder.training([sample]), 0) for sample in samples]
    for mixture in itertools.product(range(len(samples)), repeat=2):
        batch = encoder.training([samples[at] for at in mixture])
        for row, at in enumerate(mixture):
            for key, own in alone[at].items():
                assert torch.equal(batch[key][row, : len(own)], own), f"{key} of {at} in {mixture}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answers_are_learned_with_their_ends(name, encoders):
    end, gap = ("</s>", "") if name == "paligemma" else ("<|im_end|>", "<|im_end|>")
    batch = encoders[name].training(specimens())
    expected = [f"a cat{end}", f"left{end}", f"five{end}", f"\nred {gap} blue{end}"]
    assert [learned_text(encoders[name], batch, row) for row in range(4)] == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_no_image_token_is_learned(name, encoders):
    batch = encoders[name].training([later()])
    learned = batch["labels"][0][batch["labels"][0] != IGNORE].tolist()
    added = {encoders[name].tokenizer.added_tokens_decoder[token].content for token in set(learned) & set(range(60))}
    assert added <= {"<|im_end|>", "</s>"}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_holds_what_the_processor_itself_gives(name, encoders):
    """Its own `apply_chat_template`, asked for one sample with its images."""
    encoder, sample = encoders[name], asked("a cat", png(40, 40))
    turns = [dict(turn, content=[dict(part) for part in turn["content"]]) for turn in sample.messages[:-1]]
    turns[0]["content"][0] = {"type": "image", "image": Image.open(io.BytesIO(sample.images[0])).convert("RGB")}
    theirs = encoder.processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ours = encoder.prompts([sample])
    assert ours.keys() == theirs.keys() - {"labels"}
    for key, tensor in ours.items():
        assert torch.equal(tensor, torch.as_tensor(theirs[key])), key


def test_a_first_token_is_put_before_a_text_as_the_processor_does_it(encoders):
    from tokenizers.processors import TemplateProcessing

    processor = FAMILIES["llava"]()
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", processor.tokenizer.bos_token_id)]
    )
    first = processor.tokenizer.bos_token_id
    row = Encoder(processor).training([asked("a cat", png(40, 40))])["input_ids"][0].tolist()
    assert row[0] == first and row.count(first) == 1
    processor.chat_template = "<s>" + processor.chat_template
    assert Encoder(processor).training([asked("a cat", png(40, 40))])["input_ids"][0].tolist() == row
    text_only = Encoder(processor.tokenizer)
    processor.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    row = Encoder(processor.tokenizer).training([asked("five")])["input_ids"][0].tolist()
    assert first not in row and text_only


def test_a_prefix_model_reads_no_answer_ahead(encoders):
    """PaliGemma sees what is of type 0 in both directions: answers, from the first learned one on, are of type 1."""
    batch = encoders["paligemma"].training(specimens())
    for types, labels, mask in zip(batch["token_type_ids"], batch["labels"], batch["attention_mask"], strict=True):
        learned = (labels != IGNORE).nonzero().squeeze(1)
        assert not types[: learned[0]].any()
        assert types[learned[0] : int(mask.sum())].all()
        assert not types[int(mask.sum()) :].any()
    alone = encoders["paligemma"].training([asked("five")])
    assert alone["token_type_ids"].sum() == (alone["labels"] != IGNORE).sum()
    assert not encoders["paligemma"].prompts(specimens())["token_type_ids"].any()


def test_images_are_seen_upright_and_on_white(encoders):
    """REPORTS 12, 13."""
    wide = Image.new("RGB", (64, 32), "white")
    wide.paste("black", (0, 0, 16, 32))
    clear = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [io.BytesIO() for _ in range(3)]
    wide.save(files[0], "PNG")
    clear.save(files[1], "PNG")
    wide.transpose(Image.Transpose.ROTATE_90).save(files[2], "PNG", exif=exif)
    batches = [encoders["qwen3_vl"].training([asked("x", file.getvalue())]) for file in files]
    for batch in batches[1:]:
        assert torch.equal(batch["pixel_values"], batches[0]["pixel_values"])
        assert torch.equal(batch["image_grid_thw"], batches[0]["image_grid_thw"])


def test_a_sample_that_a_processor_refuses_is_named(encoders):
    thin = asked("x", png(1000, 1))
    with pytest.raises(DataError, match=f"sample {thin.id}: the processor refuses it: ValueError: .*aspect ratio"):
        encoders["qwen3_vl"].training([*specimens(), thin])
    with pytest.raises(DataError, match="the processor refuses"):
        encoders["qwen3_vl"].measure(thin, [(1000, 1)])


@pytest.mark.parametrize("name", FAMILIES)
def test_an_encoder_can_be_sent_to_a_process(name, encoders):
    sent, sample = pickle.loads(pickle.dumps(encoders[name])), asked("a <|im_end|> cat", png(40, 40))
    assert sent.measure(sample, [(40, 40)]) == encoders[name].measure(sample, [(40, 40)])
    ours, theirs = (encoder.training([sample]) for encoder in (encoders[name], sent))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_images_for_a_text_only_model_are_refused(processor):
    encoder = Encoder(processor.tokenizer)
    sample = drawn("pool", 1)[0]
    for refused in (
        lambda: encoder.training([sample]),
        lambda: encoder.prompts([sample]),
        lambda: encoder.measure(sample, [(32, 16)]),
    ):
        with pytest.raises(DataError, match="it has images, and the model's processor or chat template has no place"):
            refused()


def test_a_place_too_few_is_refused(encoders):
    """A template that writes images of the user's turns alone."""
    processor = FAMILIES["qwen3_vl"]()
    processor.chat_template = processor.chat_template.replace(
        "p.type == 'image'", "p.type == 'image' and m.role == 'user'"
    )
    processor.chat_template = processor.chat_template.replace("{{ p.text }}", "{{ p.text or '' }}")
    turns = ({"role": "system", "content": [PICTURE, *said("system", "look")["content"]]}, *rounds("what?", "this"))
    with pytest.raises(DataError, match=r"the chat template writes 0 image\(s\) of its 1"):
        Encoder(processor).training([Sample((png(40, 40),), turns)])


# --- measuring --------------------------------------------------------------------------------------------------------


def counted(encoder: Encoder, sample: Sample) -> Measured:
    batch = encoder.training([sample])
    return Measured(int(batch["attention_mask"].sum()), int((batch["labels"] != IGNORE).sum()))


SIZES = [(40, 40), (64, 32), (20, 200), (333, 77), (448, 448), (640, 427), (1, 1), (31, 33), (1000, 700)]


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_tell_what_training_counts(name, encoders):
    encoder = encoders[name]
    samples = [asked("a <|im_end|> cat", png(*size), question="\n\nwhat?\n") for size in SIZES]
    for sample in [*specimens(), *samples, asked("both", png(40, 40), png(300, 100), png(31, 33))]:
        sizes = [size_of(image) for image in sample.images]
        assert encoder.measure(sample, sizes) == counted(encoder, sample), sizes


@settings(max_examples=25)
@given(
    question=SPELLED,
    answer=SPELLED,
    sizes=st.lists(st.tuples(st.integers(2, 150), st.integers(2, 150)), max_size=3),
    first=st.booleans(),
)
@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_tell_what_training_counts_of_any_text(name, question, answer, sizes, first, encoders):
    images = [PICTURE] * len(sizes)
    text = said("user", question)["content"]
    turns = ({"role": "user", "content": [*images, *text] if first else [*text, *images]}, said("assistant", answer))
    sample = Sample(tuple(png(*size) for size in sizes), turns)
    assert encoders[name].measure(sample, sizes) == counted(encoders[name], sample)


def test_an_upright_size_is_what_counts(encoders):
    sample = asked("x", png(20, 200))
    assert encoders["qwen3_vl"].measure(sample, [(200, 20)]) == encoders["qwen3_vl"].measure(sample, [(20, 200)])
    assert encoders["llava_next"].measure(sample, [(200, 20)]) != encoders["llava_next"].measure(sample, [(20, 200)])


def test_of_the_built_in_worlds_too(fresh):
    encoder = Encoder(fresh.processor)
    for sample in [*drawn("pool", 20), *other_forms()]:
        sizes = [size_of(image) for image in sample.images]
        assert encoder.measure(sample, sizes) == counted(encoder, sample)


def test_nothing_is_decoded_and_a_size_is_looked_at_once(encoders, monkeypatch):
    encoder, sample = Encoder(FAMILIES["ovis2"]()), Sample((b"no image at all",), chat("what?", "this", 1))
    real, calls = encoder.processor.image_processor.__class__.preprocess, []
    monkeypatch.setattr(
        encoder.processor.image_processor.__class__,
        "preprocess",
        lambda self, *args, **options: calls.append(1) or real(self, *args, **options),
    )
    first = encoder.measure(sample, [(300, 200)])
    before = len(calls)
    assert encoder.measure(sample, [(300, 200)]) == first
    assert len(calls) == before > 0


class Miscounting:
    """A processor whose arithmetic is right for square images alone."""

    def __init__(self, real):
        self.real = real

    def __call__(self, image_sizes):
        told = self.real(image_sizes=image_sizes)
        shift = [int(height != width) for height, width in image_sizes]
        told.num_image_tokens = [count + more for count, more in zip(told.num_image_tokens, shift, strict=True)]
        return told


def test_wrong_arithmetic_is_not_believed():
    processor = FAMILIES["qwen3_vl"]()
    processor._get_num_multimodal_tokens = Miscounting(processor._get_num_multimodal_tokens)
    encoder = Encoder(processor)
    for size in SIZES[:4]:
        sample = asked("x", png(*size))
        assert encoder.measure(sample, [size]) == counted(encoder, sample)


def test_what_training_refuses_measuring_refuses(encoders):
    for sample in (
        Sample((), (said("user", "what?"), said("assistant", "7", reasoning_content="hm"))),
        Sample((), rounds("what?", "lone \ud800 surrogate"), id="lone"),
    ):
        for refused in (
            lambda own=sample: encoders["qwen3_vl"].training([own]),
            lambda own=sample: encoders["qwen3_vl"].measure(own, []),
        ):
            with pytest.raises(DataError):
                refused()
    assert told(encoders["qwen3_vl"], asked("fine")) == ["fine<|im_end|>"]
