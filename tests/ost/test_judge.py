"""The judge: what counts as agreement, and what it is shown."""

import numpy as np
import pytest
from specimens import drawn
from streamed import Streamed

from ost.baselines.judge import LocalChat, judge
from ost.baselines.low_loss import low_loss
from ost.data import Sample, chat
from ost.encoding import Encoder
from ost.evaluation.generate import generate
from ost.execution import batches
from ost.execution.losses import sample_losses
from ost.settings import Execution


class Scripted:
    """Says what it was told to, and keeps what it was asked."""

    prompt_tokens = completion_tokens = 0

    def __init__(self, *replies: str | None):
        self.replies, self.asked = list(replies), []

    def complete(self, samples, progress=None) -> list[str]:
        self.asked += samples
        return self.replies


def one(answer: str) -> Sample:
    return Sample((), chat("What is 3 + 4?", answer, images=0), "sum")


def test_an_answering_judge_agrees_where_its_result_does():
    model = Scripted("4 + 3 = 7", "3 + 4 = 8", "seven")
    found = judge([one("3 + 4 = 7")] * 3, model, "answer", "final")
    assert found.agrees.tolist() == [True, False, False]
    assert judge([one("3 + 4 = 7")] * 3, model, "answer").agrees.tolist() == [False] * 3, "by auto, which is exact here"
    assert found.share == pytest.approx(1 / 3)


def test_an_answering_judge_goes_by_what_each_task_asks_for():
    samples = [
        Sample((), chat("Which?", answer, images=0), task) for task, answer in (("which", "B"), ("colour", "red"))
    ]
    found = judge(samples, Scripted("The answer is (B).", "The answer is red."), "answer")
    assert found.metrics == {"which": "choice", "colour": "exact"} and found.agrees.tolist() == [True, False]
    assert judge(samples, Scripted("B", "It is red."), "answer", "contains").agrees.tolist() == [True, True]


@pytest.mark.parametrize(
    ("reply", "agrees"),
    [
        ("yes", True),
        ("Yes.", True),
        ("NO", False),
        ("3 and 4 make 7, no doubt: yes", True),
        ("yes? No!", False),
        ("", False),
        ("7", False),
        ("eyes", False),
        ("I know", False),
    ],
)
def test_a_grading_judge_agrees_where_its_last_word_on_it_is_yes(reply, agrees):
    assert judge([one("3 + 4 = 7")], Scripted(reply), "grade").agrees.tolist() == [agrees]


def test_a_grading_judge_is_shown_question_answer_and_images():
    (sample,) = drawn("pool", 1)
    model = Scripted("yes")
    judge([sample], model, "grade")
    (asked,) = model.asked
    assert sample.question in asked.question and sample.answer in asked.question
    assert asked.images == sample.images and asked.answer == ""


@pytest.mark.parametrize("mode", ["answer", "grade"])
def test_what_it_gave_no_answer_to_is_not_agreed_with(mode):
    """Not even where the answer is one that no words would match."""
    found = judge([one("it is ="), one("yes ="), one("=")], Scripted(None, "yes =", None), mode, "final")
    assert found.agrees.tolist() == [False, True, False] and found.unanswered == [0, 2]


@pytest.mark.parametrize("mode", ["answer", "grade"])
def test_a_judge_holds_a_window_of_the_samples(mode, proxy, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 4)
    samples = drawn("pool", 64)
    streamed, model = Streamed(samples), LocalChat(proxy, max_new_tokens=2)
    found = judge(streamed, model, mode)
    assert found.replies == judge(samples, model, mode).replies
    assert streamed.held == 0 and 4 <= streamed.most <= 16, "a window, or the probe that FLOPs are counted on"


def test_questions_of_grading_are_the_same_one_by_one_in_slices_and_in_order():
    samples, model = drawn("pool", 5), Scripted(*["yes"] * 5)
    asked = []
    model.complete = lambda graded, progress: asked.append(graded) or model.replies
    judge(samples, model, "grade")
    (graded,) = asked
    assert len(graded) == 5 and list(graded) == [graded[place] for place in range(5)] == graded[:]
    assert graded[3:0:-2] == [graded[3], graded[1]] and graded[-1] == graded[4]


def test_a_local_judge_says_what_the_checkpoint_says_and_counts(proxy):
    samples, model = drawn("pool", 6), LocalChat(proxy, max_new_tokens=5)
    said = generate(proxy, samples, max_new_tokens=5)
    assert model.complete(samples) == said.texts
    prompts = sum(int(Encoder(proxy.processor).prompts([sample])["attention_mask"].sum()) for sample in samples)
    assert (model.prompt_tokens, model.completion_tokens) == (prompts, said.completion_tokens)
    assert 0 < said.completion_tokens <= 5 * len(samples)
    model.complete(samples)
    assert model.prompt_tokens == 2 * prompts and model.flops > 0


def test_low_loss_ranks_by_the_mean_loss_of_the_answer(proxy, pool):
    found, cost = low_loss(pool, proxy, execution=Execution(batch_tokens=100))
    alone = [-float(sample_losses(proxy.model, Encoder(proxy.processor).training([sample]))[0]) for sample in pool]
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    assert cost.flops > 0
