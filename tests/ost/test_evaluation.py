"""Evaluation: what is counted, how answers are written whatever a checkpoint asks for, and how sure an accuracy is."""

import math

import numpy as np
import pytest
import templates
import torch
from specimens import copy_of, drawn, other_forms
from torch import nn

from ost.data import Sample, chat
from ost.encoding import Encoder, to_device
from ost.errors import ConfigError
from ost.evaluation import evaluate as evaluation
from ost.evaluation.evaluate import Evaluation, evaluate
from ost.evaluation.generate import MOST_TOKENS, REASONING_TOKENS, Generated, answer_limit, generate, token_counts
from ost.evaluation.uncertainty import clusters_of, mean_interval
from ost.models import Checkpoint
from ost.settings import Execution

Places = tuple[int, ...]


def one(answer: str, task: str = "t", images: tuple[bytes, ...] = ()) -> Sample:
    return Sample(images, chat("What is it?", answer, images=len(images)), task)


@pytest.fixture
def evaluated(fresh, monkeypatch):
    """The evaluation of a model that says what it is told to, with some of its answers cut."""

    def run(benchmark: list[Sample], said: list[str], cut: Places = (), special: Places = (), **options) -> Evaluation:
        marks = ([place in own for place in range(len(said))] for own in (cut, special))
        answers = Generated(said, 0, 0, *marks)
        monkeypatch.setattr(evaluation, "generate", lambda *args, **kwargs: answers)
        return evaluate(fresh, benchmark, **options)

    return run


def test_accuracy_counts_what_matches_whole_and_by_task(evaluated):
    benchmark = drawn("benchmark", 8)
    said = [sample.answer if index in (0, 1, 4) else "?" for index, sample in enumerate(benchmark)]
    result = evaluated(benchmark, said, metric="final")
    assert [sample.task for sample in benchmark[:4]] == ["sum", "difference", "product", "maximum"]
    assert result.accuracy == 3 / 8
    assert result.by_task == {"sum": 1.0, "difference": 0.5, "product": 0.0, "maximum": 0.0}
    assert result.predictions == said
    assert result.correct == [index in (0, 1, 4) for index in range(8)]
    assert result.interval[0] < 3 / 8 < result.interval[1]


def test_each_task_has_the_metric_that_its_references_ask_for(evaluated):
    benchmark = [one("B", "which"), one("(A)", "which"), one("7", "how many"), one('["red", "crimson"]', "colour")]
    result = evaluated(benchmark, ["Answer: B", "A.", "7.0", "Crimson."])
    assert result.metrics == {"colour": "exact", "how many": "exact", "which": "choice"}
    assert result.accuracy == 1.0
    with pytest.raises(ConfigError, match="no metric is named 'rouge'"):
        evaluated(benchmark, [""] * 4, metric="rouge")


def test_a_score_between_right_and_wrong_counts_for_what_it_is(evaluated):
    people = '["cat", "cat", "cat", "dog", "dog", "cow", "hen", "pig", "fox", "ant"]'
    result = evaluated([one(people)] * 3, ["cat", "dog", "cow"], metric="vqa")
    assert result.scores == pytest.approx([0.9, 0.6, 0.3])
    assert result.accuracy == pytest.approx(0.6) and result.correct == [True, True, False]


def test_answers_that_are_cut_or_empty_are_told(evaluated):
    benchmark = [one(f"cat {number}") for number in range(20)]
    said = [sample.answer for sample in benchmark]
    assert evaluated(benchmark, said, cut=(3,)).warnings == [], "one in twenty"
    result = evaluated(benchmark, [*said[:17], "", " ", ""], cut=(3, 4, 5, 6), max_new_tokens=9)
    assert result.warnings == [
        "20% of the answers were cut at 9 tokens: raise evaluate.max_new_tokens, unless the model does not know yet "
        "when to stop",
        "15% of the answers are empty",
    ]
    assert (result.cut_share, result.empty_share, result.max_new_tokens) == (0.2, pytest.approx(0.15), 9)


def test_empty_answers_of_special_tokens_alone_are_told_apart(evaluated):
    benchmark = [one(f"cat {number}") for number in range(20)]
    said = [sample.answer for sample in benchmark[:16]] + [""] * 4
    for special, why in {
        (): "",
        (17, 18): ": in 10% the model wrote special tokens alone, which are no text",
        (16, 17, 18, 19): ": the model wrote special tokens alone, which are no text",
    }.items():
        assert evaluated(benchmark, said, special=special).warnings == [f"20% of the answers are empty{why}"]


def test_a_limit_that_references_do_not_fit_is_told(evaluated, fresh):
    benchmark = [one("7"), one('["3 + 4 = 7", "7"]'), one("3 + 4 = 7 " * 4), one("9 - 2 = 7")]
    said, tokens = [sample.answer for sample in benchmark], token_counts(fresh, ["3 + 4 = 7 " * 4, "9 - 2 = 7"])
    result = evaluated(benchmark, said, metric="final", max_new_tokens=tokens[1] - 1)
    assert result.longer == 0.5, "one that has a short reference beside a long one fits"
    assert result.warnings == [
        f"an answer may take {tokens[1] - 1} tokens, and the references of 50.0% of the samples are longer, up to "
        f"{tokens[0]}: set evaluate.max_new_tokens to null, which takes {2 * tokens[0]}"
    ]
    for enough in (tokens[0], None):
        result = evaluated(benchmark, said, metric="final", max_new_tokens=enough)
        assert (result.longer, result.warnings) == (0.0, [])
    (told,) = evaluated([one("3 + 4 = 7 " * 400)], ["7"], metric="final").warnings
    assert "may take 1,024 tokens, and the references of 100.0%" in told and told.endswith("max_new_tokens higher")


def test_a_limit_that_leaves_no_room_to_work_an_answer_out_is_told(evaluated):
    (told,) = evaluated([one("7")], ["7"], metric="math", max_new_tokens=16).warnings
    assert told == (
        "an answer may take 16 tokens, and answers are worked out here before they are given: set "
        "evaluate.max_new_tokens to null, which takes 256"
    )
    assert not evaluated([one("7")], ["7"], metric="exact", max_new_tokens=2).warnings


def test_an_accuracy_of_zero_is_explained_with_numbers(evaluated):
    (told,) = evaluated([one("cat")] * 4, ["dog", "cow", "hen", "ant"], max_new_tokens=9).warnings
    for words in ("every one of 4 answers", "'dog' where 'cat' is right", "it was exact (t)", "0% were, at 9 tokens"):
        assert words in told
    assert evaluated([one("cat")] * 4, ["cat", "cow", "hen", "ant"]).warnings == []


# --- the limit of an answer -------------------------------------------------------------------------------------------


def test_the_limit_follows_from_the_longest_reference(fresh):
    assert answer_limit(fresh, ["7", "3 + 4 = 7"]) == 16
    assert answer_limit(fresh, []) == 16
    long = "3 + 4 = 7 " * 20
    tokens = len(fresh.tokenizer(long, add_special_tokens=False)["input_ids"])
    assert answer_limit(fresh, ["7", long]) == 2 * tokens > 100
    assert answer_limit(fresh, [long * 20]) == MOST_TOKENS
    assert answer_limit(fresh, ["7"], least=256) == 256


@pytest.mark.parametrize(
    ("name", "more"),
    [("CHATML", False), ("VICUNA", False), ("LLAMA2", False), ("QWEN3", True), ("THINKING", True), ("R1", True)],
)
def test_a_model_that_reasons_first_may_write_more(name, more):
    tokenizer = templates.byte_level(getattr(templates, name))
    assert answer_limit(Checkpoint(None, tokenizer), ["7"]) == 16 + (REASONING_TOKENS if more else 0)


@pytest.mark.parametrize("name", ["THINKING", "R1"])
def test_a_prompt_that_has_ended_the_reasoning_leaves_none(name):
    template = getattr(templates, name)
    closed = template.replace("<think>\n{% endif %}", "<think>\n\n</think>\n\n{% endif %}")
    assert closed != template and not Encoder(templates.byte_level(closed)).reasons


def test_the_limit_of_an_evaluation_is_that_of_its_references_unless_it_is_set(fresh, monkeypatch):
    limits = []

    def said(checkpoint, samples, *, max_new_tokens, **options):
        limits.append(max_new_tokens)
        return Generated([""] * len(samples), 0, 0, *[[False] * len(samples)] * 2)

    monkeypatch.setattr(evaluation, "generate", said)
    spoken = '["' + "3 + 4 = 7 " * 20 + '", "7"]'
    for reference in ("7", spoken, "$\\frac{1}{2}$"):
        evaluate(fresh, [one(reference)])
    evaluate(fresh, [one(spoken)], max_new_tokens=3)
    assert limits[0] == 16 and limits[1] > 100 and limits[2:] == [256, 3]


# --- generation -------------------------------------------------------------------------------------------------------


def test_what_the_limit_ends_is_cut_and_what_the_model_ends_is_not(proxy):
    samples = drawn("benchmark", 6)
    free = generate(proxy, samples, max_new_tokens=40)
    assert not any(free.cut), "the model never ends, so this test says nothing"
    lengths = [len(proxy.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in free.texts]
    limit = max(lengths)  # the end token of the longest does not fit
    found = generate(proxy, samples, max_new_tokens=limit)
    assert found.texts == free.texts and found.cut == [length >= limit for length in lengths]


def test_an_answer_of_special_tokens_alone_is_told_from_one_that_was_ended_at_once(proxy, monkeypatch):
    tokenizer, model = proxy.tokenizer, copy_of(proxy)
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    word = tokenizer("7", add_special_tokens=False)["input_ids"][-1]
    pad = Encoder(model.processor).pad_token_id
    written = torch.tensor([[start] * 3, [start, end, pad], [end, pad, pad], [start, word, end], [word, end, pad]])
    monkeypatch.setattr(
        model.model,
        "generate",
        lambda **given: torch.cat([given["input_ids"], written[: len(given["input_ids"])]], dim=1),
    )
    found = generate(model, drawn("benchmark", 5), max_new_tokens=3)
    shown = sorted(zip(found.texts, found.special, found.cut, strict=True))
    assert shown == [("", False, False), ("", True, False), ("", True, True), ("7", False, False), ("7", False, False)]


OTHER_WAYS = {
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "penalties": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0},
    "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 0, "top_p": 0.9},
    "a least length": {"min_new_tokens": 12},
    "an end of its own": {"forced_eos_token_id": 2, "exponential_decay_length_penalty": (0, 9.0), "max_time": 1e-9},
    "what may not be said": {"bad_words_ids": [[number] for number in range(20, 60)], "begin_suppress_tokens": [30]},
    "guidance": {"guidance_scale": 3.0},
    "several answers": {"num_beams": 2, "num_return_sequences": 2},
    "a length": {"max_length": 1, "max_new_tokens": 1},
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_greedy_is_greedy_whatever_the_checkpoint_asks_for(way, proxy, tmp_path):
    samples, plain = drawn("benchmark", 6), copy_of(proxy)
    expected = generate(plain, samples, max_new_tokens=12).texts
    other = copy_of(proxy)
    for name, value in OTHER_WAYS[way].items():
        setattr(other.model.generation_config, name, value)
    own = other.model.generation_config
    assert generate(other, samples, max_new_tokens=12).texts == expected
    assert other.model.generation_config is own and all(getattr(own, k) == v for k, v in OTHER_WAYS[way].items())


def test_those_ways_are_other_ones(proxy):
    """Else the test before says nothing: the model's own `generate`, told no more than greed and a limit."""
    batch = Encoder(proxy.processor).prompts(drawn("benchmark", 6))
    ways = {}
    for way in ("penalties", "a least length", "what may not be said"):
        other = copy_of(proxy)
        for name, value in OTHER_WAYS[way].items():
            setattr(other.model.generation_config, name, value)
        ways[way] = other.model.generate(**batch, do_sample=False, max_new_tokens=12)
    plain = proxy.model.generate(**batch, do_sample=False, max_new_tokens=12)
    assert all(found.shape != plain.shape or (found != plain).any() for found in ways.values())


def test_an_end_token_of_the_checkpoint_still_ends_an_answer(proxy):
    samples = drawn("benchmark", 2)
    first = Encoder(proxy.processor).tokenizer(generate(proxy, samples).texts[0], add_special_tokens=False)["input_ids"]
    stopped = copy_of(proxy)
    stopped.model.generation_config.eos_token_id = [proxy.tokenizer.eos_token_id, first[1]]
    found = generate(stopped, samples)
    assert found.completion_tokens < generate(proxy, samples).completion_tokens and not found.cut[0]


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


# --- how sure an accuracy is ------------------------------------------------------------------------------------------


def test_samples_that_share_images_are_one_cluster():
    images = [["a"], ["b"], [], ["c", "a"], ["c"], [], ["b", "b"]]
    found = clusters_of(images).tolist()
    assert found[0] == found[3] == found[4] and found[1] == found[6]
    assert len(set(found)) == 4 and set(found) == {0, 1, 2, 3}
    assert clusters_of([[], []]).tolist() == [0, 1]


def test_the_interval_of_single_samples_is_wilsons():
    scores = [1.0] * 30 + [0.0] * 70
    low, high = mean_interval(scores, np.arange(100))
    assert (low, high) == pytest.approx((0.2189, 0.3959), abs=2e-3)  # Wilson's of 30 in 100


@pytest.mark.parametrize(("scores", "bound"), [([0.0] * 50, 0), ([1.0] * 50, 1)])
def test_the_interval_of_nothing_but_right_or_wrong_has_a_width(scores, bound):
    alone, together = mean_interval(scores, np.arange(50)), mean_interval(scores, np.arange(50) // 10)
    assert alone[bound] == bound == together[bound]
    assert 0.05 < alone[1] - alone[0] < 0.1 < together[1] - together[0] < 0.6
    assert mean_interval(scores, np.zeros(50, dtype=np.int32)) == (0.0, 1.0)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Ten questions about each of 40 images; that of independent samples would cover it in about half of the draws."""
    rng, clusters = np.random.default_rng(0), np.arange(400) // 10
    hits = {"clusters": 0, "samples": 0}
    for _ in range(400):
        easy = rng.beta(1.2, 0.8, 40)[clusters]  # mean 0.6
        scores = (rng.random(400) < easy).astype(float)
        for name, own in {"clusters": clusters, "samples": np.arange(400)}.items():
            low, high = mean_interval(scores, own)
            hits[name] += low <= 0.6 <= high
    assert 0.92 < hits["clusters"] / 400 < 0.98 and hits["samples"] / 400 < 0.8


def test_an_evaluation_knows_which_samples_share_images(evaluated):
    first, second = (sample.images for sample in drawn("benchmark", 2))
    benchmark = [one("cat", images=first), one("dog", images=second), one("cow", images=first), one("hen")]
    found = evaluated(benchmark, ["cat", "dog", "cow", "?"]).clusters.tolist()
    assert found[0] == found[2] and len(set(found)) == 3
