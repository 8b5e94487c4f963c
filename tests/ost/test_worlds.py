"""The built-in world: right answers, recomputed here from scratch, and a teacher that errs as it should and no more."""

import collections
import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from specimens import drawn

from ost.errors import ConfigError
from ost.worlds import WORLDS, handmath, world_of
from ost.worlds.handmath import MISREAD, SLIPS
from ost.worlds.settings import Base, World
from ost.worlds.teacher import answer_pool, wrong_answers

SPLITS = ("pretrain", "pool", "anchors", "benchmark")
DIGITS = load_digits()


def read(text: str) -> tuple[str, int, int, int]:
    """Task, both digits and result of an answer, by its text alone."""
    a, sign, b, result = re.fullmatch(r"(\d) ([+*-]|max) (\d) = (-?\d+)", text).groups()
    return {"+": "sum", "-": "difference", "*": "product", "max": "maximum"}[sign], int(a), int(b), int(result)


def computed(task: str, a: int, b: int) -> int:
    return {"sum": a + b, "difference": a - b, "product": a * b, "maximum": max(a, b)}[task]


@pytest.fixture(scope="module")
def problems() -> list[handmath.Problem]:
    return handmath.draw("pool", 4000, 0)


# --- problems ---------------------------------------------------------------------------------------------------------


def test_splits_share_no_digit_image():
    used = {split: {i for p in handmath.draw(split, 3000, 0) for i in (p.left, p.right)} for split in SPLITS}
    for split, own in used.items():
        others = set().union(*(used[other] for other in SPLITS if other != split))
        assert not own & others, f"{split} shows images of another split: the benchmark is leaked"
    assert set().union(*used.values()) == set(range(len(DIGITS.target))), "some real digits are never used"


def test_every_split_owns_every_value():
    for split in SPLITS:
        values = {value for problem in handmath.draw(split, 800, 0) for value in problem.digits}
        assert values == set(range(10)), split


@pytest.mark.parametrize("world", map(world_of, WORLDS), ids=WORLDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_world_has_what_the_default_parameters_ask_of_it(world, seed):
    sizes = World()
    asked = [("pretrain", world.LESSONS, world.KNOWN), ("pretrain", world.LESSONS, world.TASKS)]
    asked += [("pretrain", world.TEACHER_LESSONS, None)]
    asked += [(split, getattr(sizes, split), None) for split in ("pool", "anchors", "benchmark")]
    for split, count, among in asked:
        assert len(set(world.draw(split, count, seed, among))) == count


def test_more_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"the anchors part of handmath has 1\d\d,\d\d\d questions, too few"):
        handmath.draw("anchors", 200_000, 0)


def test_a_draw_follows_its_seed_and_stream():
    first, again = handmath.draw("pool", 50, 0), handmath.draw("pool", 50, 0)
    assert first == again
    for other in (handmath.draw("pool", 50, 1), handmath.draw("pool", 50, 0, stream=1)):
        assert len(set(first) & set(other)) < 5


def test_problems_are_distinct_and_so_are_their_samples(problems):
    assert len(set(problems)) == len(problems)
    assert len({sample.id for sample in drawn("pool", 800)}) == 800


def test_anchors_are_stratified_by_task():
    counts = collections.Counter(problem.task for problem in handmath.draw("anchors", 100, 0))
    assert counts == dict.fromkeys(handmath.TASKS, 25)


def test_tasks_can_be_limited():
    assert {problem.task for problem in handmath.draw("pretrain", 40, 0, among=("sum", "maximum"))} == {
        "sum",
        "maximum",
    }


def test_digit_values_come_equally_often(problems):
    counts = collections.Counter(value for problem in problems for value in problem.digits)
    assert max(abs(count - 800) for count in counts.values()) < 5 * (8000 * 0.1 * 0.9) ** 0.5


# --- samples ----------------------------------------------------------------------------------------------------------


def test_answers_are_right(problems):
    for problem in problems[:1000]:
        written = (int(DIGITS.target[problem.left]), int(DIGITS.target[problem.right]))
        task, a, b, result = read(handmath.to_sample(problem).answer)
        assert (task, a, b) == (problem.task, *written)
        assert result == computed(task, a, b)


def test_all_four_answers_are_right_for_every_pair():
    for task in handmath.TASKS:
        for a in range(10):
            for b in range(10):
                assert read(handmath.worked(task, a, b)) == (task, a, b, computed(task, a, b))


def test_the_question_asks_what_the_answer_answers():
    words = {"sum": "sum", "difference": "minus", "product": "product", "maximum": "larger"}
    for sample in drawn("pool", 40):
        assert words[sample.task] in sample.question
        assert read(sample.answer)[0] == sample.task


def test_the_image_shows_the_two_digits_side_by_side(problems):
    for problem in problems[:50]:
        image = Image.open(io.BytesIO(handmath.to_sample(problem).images[0]))
        assert (image.size, image.format) == ((32, 16), "PNG")
        shown = 255 - np.asarray(image.convert("L").resize((16, 8), Image.Resampling.BOX), dtype=float)
        original = np.hstack([DIGITS.images[problem.left], DIGITS.images[problem.right]])
        assert np.corrcoef(shown.ravel(), original.ravel())[0, 1] > 0.95, "another digit, the wrong side, or inverted"


# --- the teacher's errors ---------------------------------------------------------------------------------------------


def test_about_half_of_the_rules_answers_are_wrong(problems):
    texts = wrong_answers(handmath, problems, World(), 0)
    right = [handmath.answer(problem) for problem in problems]
    rate = np.mean([a != b for a, b in zip(texts, right, strict=True)])
    assert 0.4 <= rate <= 0.6, f"{rate:.0%} of the pool is wrong"


def test_only_confusable_digits_are_misread(problems):
    for problem, text in zip(
        problems, wrong_answers(handmath, problems, World(misread=1, wrong_operation=0), 0), strict=True
    ):
        task, *digits, result = read(text)
        assert task == problem.task, "the operation changed although that was switched off"
        assert digits == [MISREAD.get(value, value) for value in problem.digits]
        assert result == computed(task, *digits), "a misreading must be followed through"


def test_a_wrong_operation_is_another_one_on_the_same_digits(problems):
    seen = collections.Counter()
    for problem, text in zip(
        problems, wrong_answers(handmath, problems, World(misread=0, wrong_operation=1), 0), strict=True
    ):
        task, a, b, result = read(text)
        assert (a, b) == problem.digits
        assert task != problem.task
        assert result == computed(task, a, b)
        seen[problem.task, task] += 1
    assert set(seen) == set(SLIPS.items()), "slips have a direction, as misreadings have"


def test_a_faultless_world_has_right_answers(problems):
    assert wrong_answers(handmath, problems, World(misread=0, wrong_operation=0), 0) == [
        handmath.answer(problem) for problem in problems
    ]


def test_misreadings_come_at_their_rate_and_follow_the_seed(problems):
    texts = wrong_answers(handmath, problems, World(misread=0.3, wrong_operation=0), 0)
    pairs = [
        (value, shown)
        for problem, text in zip(problems, texts, strict=True)
        for value, shown in zip(problem.digits, read(text)[1:3], strict=True)
        if value in MISREAD
    ]
    assert np.mean([value != shown for value, shown in pairs]) == pytest.approx(0.3, abs=0.04)
    assert texts == wrong_answers(handmath, problems, World(misread=0.3, wrong_operation=0), 0)
    assert texts != wrong_answers(handmath, problems, World(misread=0.3, wrong_operation=0), 1)


def test_a_digit_is_never_misread_as_itself_nor_back():
    assert not {value for value, taken in MISREAD.items() if value == taken}
    assert not set(MISREAD) & set(MISREAD.values()), "errors that go both ways would average out"


def test_the_truth_beside_the_pool_is_the_truth(problems):
    samples, wrong = answer_pool(handmath, problems[:300], World(errors="rules"), Base(), 0)
    for sample, problem, flag in zip(samples, problems[:300], wrong, strict=True):
        task, a, b, result = read(sample.answer)
        right = (task, a, b) == (problem.task, *problem.digits) and result == computed(task, a, b)
        assert flag == (not right)
        assert sample.task == problem.task


def test_a_taught_teacher_answers_every_question_by_its_seed(problems):
    """A teacher of a few steps: its answers are poor, and the same for the same seed."""
    settings = (World(teacher_steps=4, misread=1), Base(batch_size=4, learning_rate=1e-3))
    first, wrong = answer_pool(handmath, problems[:6], *settings, 0)
    assert [sample.images for sample in first] == [handmath.to_sample(problem).images for problem in problems[:6]]
    assert len(wrong) == 6
    assert answer_pool(handmath, problems[:6], *settings, 0) == (first, wrong)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_the_share_that_is_wrong_can_be_set(problems, share):
    samples, wrong = answer_pool(handmath, problems[:1000], World(errors="rules", wrong_share=share), Base(), 0)
    untouched, before = answer_pool(handmath, problems[:1000], World(errors="rules"), Base(), 0)
    assert np.mean(wrong) == share
    for sample, problem, flag in zip(samples, problems, wrong, strict=False):
        assert flag == (sample.answer != handmath.answer(problem))
    more = sum(wrong) > sum(before)
    assert all(now >= then if more else now <= then for now, then in zip(wrong, before, strict=True))
    kept = [one.answer == other.answer for one, other in zip(samples, untouched, strict=True)]
    assert np.mean(kept) == pytest.approx(1 - abs(np.mean(wrong) - np.mean(before)), abs=1e-9)


def test_errors_by_chance_are_right_answers_to_other_questions_of_the_task(problems):
    """Dealt, so each is as often there as it is right: no answer is favoured, and errors have no direction."""
    own = problems[:2000]
    samples, wrong = answer_pool(handmath, own, World(errors="chance"), Base(), 0)
    said = [sample.answer for sample in samples]
    assert 0.9 < np.mean(wrong) < 1, "now and then a question is dealt its own answer"
    for task in handmath.TASKS:
        kinds = [
            sorted(text for text, one in zip(texts, own, strict=True) if one.task == task)
            for texts in (said, map(handmath.answer, own))
        ]
        assert kinds[0] == kinds[1]
    _, half = answer_pool(handmath, own, World(errors="chance", wrong_share=0.5), Base(), 0)
    assert sum(half) == 1000


def test_where_no_rule_makes_more_wrong_there_are_fewer(problems):
    settings = World(errors="rules", wrong_share=1.0, wrong_operation=0.0)
    _, wrong = answer_pool(handmath, problems[:1000], settings, Base(), 0)
    possible = [any(digit in MISREAD for digit in problem.digits) for problem in problems[:1000]]
    assert np.mean(wrong) > 0.5 and not any(flag and not can for flag, can in zip(wrong, possible, strict=True))
