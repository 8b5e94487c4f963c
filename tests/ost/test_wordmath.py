"""The text-only world: answers recomputed here, splits apart, and a model that can be trained and scored with."""

import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr

import ost
from ost.errors import ConfigError
from ost.training import Recipe, train
from ost.worlds import wordmath, world_of
from ost.worlds.settings import Base, World
from ost.worlds.teacher import answer_pool, wrong_answers
from ost.worlds.tiny import PROXY, build
from ost.worlds.wordmath import MISREAD, NUMBERS, SLIPS, TASKS
from ost.worlds.world import SPLITS

SIGNS = {"+": "sum", "-": "difference", "*": "product", "max": "maximum"}


def read(text: str) -> tuple[str, int, int, int]:
    """Task, both numbers and result of an answer, by its text alone."""
    a, sign, b, result = re.fullmatch(r"(\d+) ([+*-]|max) (\d+) = (-?\d+)", text).groups()
    return SIGNS[sign], int(a), int(b), int(result)


def computed(task: str, a: int, b: int) -> int:
    return {"sum": a + b, "difference": a - b, "product": a * b, "maximum": max(a, b)}[task]


@pytest.fixture(scope="module")
def problems() -> list[wordmath.Problem]:
    return wordmath.draw("pool", 2000, 0)


def test_answers_are_right_and_about_what_is_asked(problems):
    for problem in problems:
        sample = wordmath.to_sample(problem)
        task, a, b, result = read(sample.answer)
        assert (task, a, b, result) == (sample.task, problem.a, problem.b, computed(task, a, b))
        words = re.findall("|".join(sorted(NUMBERS, key=len, reverse=True)), sample.question)
        named = [NUMBERS.index(word) for word in words]
        assert named == ([b, a] if " from " in sample.question else [a, b]), sample.question
        assert not sample.images


def test_splits_share_no_question():
    used = {split: {wordmath.to_sample(p).question for p in wordmath._split(0)[split]} for split in SPLITS}
    for split, own in used.items():
        assert all(split == other or not own & theirs for other, theirs in used.items())
    assert sum(map(len, used.values())) == 25_600


def test_problems_are_distinct_even_over_tasks_and_follow_the_seed(problems):
    assert len(set(problems)) == 2000
    assert Counter(problem.task for problem in problems) == dict.fromkeys(TASKS, 500)
    assert wordmath.draw("pool", 2000, 0) == problems != wordmath.draw("pool", 2000, 1)
    with pytest.raises(ConfigError, match="has no 50,000 questions"):
        wordmath.draw("pool", 50_000, 0)


def test_the_teachers_errors_have_a_direction(problems):
    for problem, text in zip(
        problems, wrong_answers(wordmath, problems, World(misread=1, wrong_operation=1), 0), strict=True
    ):
        task, *numbers, result = read(text)
        assert task == SLIPS[problem.task]
        assert numbers == [MISREAD.get(number, number) for number in (problem.a, problem.b)]
        assert result == computed(task, *numbers)
    assert not set(MISREAD) & set(MISREAD.values()), "errors that go both ways would average out"
    _, wrong = answer_pool(wordmath, problems, World(errors="rules"), Base(), 0)
    assert 0.4 < np.mean(wrong) < 0.6


def test_a_text_only_model_is_trained_saved_and_scored_with(tmp_path):
    lessons = [wordmath.to_sample(problem) for problem in wordmath.draw("pretrain", 64, 0)]
    anchors = [wordmath.to_sample(problem) for problem in wordmath.draw("anchors", 8, 0)]
    build("builtin", PROXY, wordmath.processor(), 0).save(tmp_path / "text")
    proxy = ost.load_checkpoint(tmp_path / "text")
    first = train(proxy, lessons, Recipe(steps=2, batch_size=16, learning_rate=2e-3)).loss
    assert train(proxy, lessons, Recipe(steps=20, batch_size=16, learning_rate=2e-3)).loss < first
    found = [
        ost.score(lessons, anchors, proxy, method=method, checks=0).table["utility"]
        for method in ("gradient", "transposed")
    ]
    assert spearmanr(*(column.to_numpy() for column in found)).statistic > 0.999


def test_it_is_known_by_its_name():
    assert world_of("wordmath") is wordmath
