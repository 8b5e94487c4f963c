"""The world easy-VQA, held against the package's own answers, and its teacher's errors."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ost.errors import ConfigError
from ost.evaluation.metrics.text import final as matches
from ost.worlds import easyvqa, world_of
from ost.worlds.easyvqa import COLOURS, MISREAD, SHAPES, TASKS
from ost.worlds.settings import Base, World
from ost.worlds.teacher import answer_pool, wrong_answers
from ost.worlds.world import SPLITS


def given(part: str) -> dict[tuple[str, str], str]:
    """(image, question) → the answer that the package gives."""
    folder = Path(importlib.util.find_spec("easy_vqa").submodule_search_locations[0]) / "data" / part
    return {
        (str(image), text.lower()): said for text, said, image in json.loads((folder / "questions.json").read_text())
    }


@pytest.fixture(scope="module")
def problems() -> list[easyvqa.Problem]:
    return easyvqa.draw("pool", 2000, 0)


@pytest.mark.parametrize(("split", "part"), [("pool", "train"), ("anchors", "train"), ("benchmark", "test")])
def test_every_answer_ends_with_the_packages_own(split, part):
    truth = given(part)
    for problem in easyvqa.draw(split, 1500, 0):
        said = truth[problem.image.stem, problem.text]
        assert matches(easyvqa.answer(problem), said), f"{problem.text} {easyvqa.answer(problem)}, not {said}"


def test_most_of_the_images_are_used():
    for part, count in (("train", 4000), ("test", 1000)):
        assert len({problem.image for problem in easyvqa._read(part)}) > 0.85 * count


def test_splits_share_no_image():
    used = {split: {problem.image for problem in easyvqa._problems(split, 0)} for split in SPLITS}
    for split, own in used.items():
        for other, theirs in used.items():
            assert split == other or not own & theirs
    assert {problem.image for problem in easyvqa._problems("pool", 1)} != used["pool"], "the seed divides the images"


def test_problems_are_distinct_even_over_tasks_and_follow_the_seed(problems):
    assert len({(problem.image, problem.text) for problem in problems}) == 2000
    assert Counter(problem.task for problem in problems) == dict.fromkeys(TASKS, 500)
    assert easyvqa.draw("pool", 2000, 0) == problems != easyvqa.draw("pool", 2000, 1)
    assert {problem.task for problem in easyvqa.draw("pool", 50, 0, among=("shape",))} == {"shape"}


def test_more_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match=r"has \d[\d,]+ questions of shape, not 50,000"):
        easyvqa.draw("pool", 50_000, 0, among=("shape",))


def test_a_sample_is_the_image_as_it_came(problems):
    sample = easyvqa.to_sample(problems[0])
    assert sample.images == (problems[0].image.read_bytes(),)
    assert (sample.question, sample.task) == (problems[0].text, problems[0].task)


def test_a_faultless_teacher_is_right(problems):
    settings = World(misread=0, wrong_operation=0)
    assert wrong_answers(easyvqa, problems, settings, 0) == [easyvqa.answer(problem) for problem in problems]


def test_only_confusable_things_are_misread_and_consistently(problems):
    for problem, text in zip(
        problems, wrong_answers(easyvqa, problems, World(misread=1, wrong_operation=0), 0), strict=True
    ):
        seen, said = text.split(" = ")
        colour, shape = seen.split()
        assert (colour, shape) == tuple(MISREAD.get(word, word) for word in problem.seen)
        if problem.task in ("shape", "colour"):
            assert said == (shape if problem.task == "shape" else colour)
        else:
            words = problem.text.rstrip("?").split()
            there = bool({colour, shape} & set(words))
            assert said == ("yes" if there != bool({"no", "not"} & set(words)) else "no")


def test_a_slip_turns_negations_and_nothing_else(problems):
    for problem, text in zip(
        problems, wrong_answers(easyvqa, problems, World(misread=0, wrong_operation=1), 0), strict=True
    ):
        negated = bool({"no", "not"} & set(problem.text.rstrip("?").split()))
        assert (text != easyvqa.answer(problem)) == negated


def test_misreadings_have_a_direction_and_about_half_the_pool_is_wrong(problems):
    assert not set(MISREAD) & set(MISREAD.values()), "errors that go both ways would average out"
    assert set(MISREAD) | set(MISREAD.values()) <= {*COLOURS, *SHAPES}
    _, wrong = answer_pool(easyvqa, problems, World(errors="rules"), Base(), 0)
    assert 0.4 < np.mean(wrong) < 0.6


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install easy-vqa"):
        easyvqa._folder()


def test_it_is_known_by_its_name():
    assert world_of("easy-vqa") is easyvqa
