"""Metrics: published examples, the ways in which models write an answer, and which metric references ask for."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ost.errors import ConfigError
from ost.evaluation.metrics import METRICS, check_metric, metric_of, metrics_by_task, references_of, scores_of
from ost.evaluation.metrics.auto import choose
from ost.evaluation.metrics.choice import letter_of
from ost.evaluation.metrics.number import quantity
from ost.evaluation.metrics.text import levenshtein
from ost.evaluation.metrics.vqa import normal_vqa


def score(name: str, answer: str, *references: str) -> float:
    return metric_of(name)(answer, references)


@pytest.mark.parametrize(
    ("answer", "reference", "final", "exact"),
    [
        ("5 + 8 = 13", "5 + 8 = 13", True, True),
        ("6 + 7 = 13", "5 + 8 = 13", True, False),
        ("5 + 8 = 12", "5 + 8 = 13", False, False),
        ("13", "5 + 8 = 13", True, False),
        ("5 + 8 = 3 = 13", "5 + 8 = 13", True, False),
        ("5 + 8 = 13 ", " 5  + 8 = 13", True, True),
        ("5 + 8 = 1 3", "5 + 8 = 13", False, False),
        ("5 + 8 = 130", "5 + 8 = 13", False, False),
        ("5 - 8 = 3", "5 - 8 = -3", False, False),
        ("", "5 + 8 = 13", False, False),
        ("x = 7, y = 2", "x = 1, y = 2", True, False),
        ("a Cat.", "a cat", True, True),
        ("Yes", "yes!", True, True),
        ("7", "7.0", True, True),
        ("7.", "7", True, True),
        ("1,000", "1000", True, True),
        ("$1,000 a year", "$1000 a year", True, True),
        ("1,00", "100", False, False),
        ("10", "1.0", False, False),
        ("1000", "1", False, False),
        ("+5", "5", True, True),
        ("-5", "5", False, False),
        ("−5", "-5", True, True),
        (".5", "0.50", True, True),
        ("007", "7", False, False),
        ("?", "!", False, False),
        ("the who", "who", False, False),
        ("cafe\u0301", "café", True, True),
    ],
)
def test_equal_texts_by_example(answer, reference, final, exact):
    assert score("exact", answer, reference) == exact
    assert score("final", answer, reference) == final


@settings(max_examples=100)
@given(text=st.text(max_size=20), other=st.text(max_size=20), thought=st.text(max_size=10))
@example("1,0000", "10,000", "")
@example("0", "", "")
def test_equality_is_an_equivalence_that_exact_refines(text, other, thought):
    for name in ("exact", "final"):
        assert score(name, text, text)
        assert score(name, text, other) == score(name, other, text)
        assert score(name, f"  {text}\n", text), "white space around the text decides"
    assert not score("exact", text, other) or "=" in text + other or score("final", text, other)
    assert score("final", f"{thought} = {other}", f"={other}")


DRESSES = ["B", "(B)", "B.", "b", " b) ", "[B]", "**B**", "B: a cat", "B) a cat", "B. A cat", "(b) a cat", "B\na cat"]
DRESSES += ["Answer: B", "answer is B", "The answer is B", "The answer is (B).", "The correct answer is: **B**"]
DRESSES += [
    "\\boxed{B}",
    "$\\boxed{\\text{B}}$",
    "\\boxed{B. cat}",
    "Option B",
    "The correct option is B, since it purrs.",
]
DRESSES += ["A is too large, so the answer is B", "I think it is B", "It must be (B).", "Answer: B) A cat", "`B`"]
DRESSES += ["The answer is b.", "answer: b", "The answer is **b**.", "The answer is **b.** A bee.", "the answer is b"]
DRESSES += ["B) a cat\n\na) it purrs\nc) it is small", "The answer is a cat. So the option is b."]
DRESSES += ["First, the answer is A. No: it is wet, so the answer is B.", "the answer is (b)", "Final Answer:\n\nB"]


@pytest.mark.parametrize("answer", DRESSES)
def test_a_letter_is_known_in_any_dress(answer):
    assert letter_of(answer) == "B"
    assert score("choice", answer, "B") == score("choice", answer, "(B)") == score("choice", "B.", answer) == 1.0
    assert score("choice", answer, "C") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *("", "cat", "a cat", "the answer is a dog", "A cat sits here", "I see a bee", "A or B", "A, B", "(A) or (B)"),
        *(
            "the answer is a",
            "The answer is a b.",
            "answer is i",
            "the answer is a\ncat",
            "The answer is a.m.",
            "A red",
        ),
        *("A red car", "Answer: A cat", "A. red\nB. blue\nC. green", "(a) red\n(b) blue", "A\nB\nC\n"),
        *("Bee", "U.S.A.", "none of them", "K", "vitamin-C", "C++ or F#", "the answer is blue", "Because"),
    ],
)
def test_a_reply_without_a_letter_or_with_several_is_wrong(answer):
    assert letter_of(answer) is None
    assert not any(score("choice", answer, letter) for letter in "ABCDEFGHIJ")


@pytest.mark.parametrize("answer", ["The answer is a.", "Answer: a", "the option is a. It is red.", "answer is: a"])
def test_a_small_a_that_closes_the_sentence_is_a_letter(answer):
    assert letter_of(answer) == "A"


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("A red", "A. red", True),
        ("a Red.", "(A) red", True),
        ("A vitamin C", "A. vitamin C", True),
        ("A red car", "A. red", False),
        ("A red", "B. red", False),
        ("A red", "A", False),
        ("A red", "A. -red", False),
        ("red", "A. red", False),
        ("A and B", "A and B", True),
        ("A and B", "A", False),
        ("red (A)", "B. red A", False),
    ],
)
def test_what_is_the_reference_but_for_the_mark_behind_its_letter_is_right(answer, reference, right):
    assert score("choice", answer, reference) == right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("104", "100", True),  # within 5 % of the gold answer: arXiv:2203.10244, section 5.1
        ("105", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("94.9", "100", False),
        ("12.1%", "12%", True),
        ("0.12", "12%", True),  # as Pix2Struct's relaxed_correctness: a percentage is a hundredth
        ("12", "12%", False),
        ("-10", "10", False),
        ("0", "0.0", True),
        ("0.01", "0", False),
        ("1,020,000", "1000000", True),
        ("1e3", "1000", True),
        ("blue", "Blue", True),
        ("light blue", "blue", False),
        ("about 100", "100", False),
        ("nan", "100", False),
        ("inf", "100", False),
        ("1e999", "100", False),
        ("1_000", "1000", False),
        ("100.", "100", True),
    ],
)
def test_numbers_may_be_five_percent_off(answer, reference, right):
    assert score("number", answer, reference) == right


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3.5", -3.5), ("50%", 0.5), ("1,234.5", 1234.5), (".5", 0.5), ("5.", 5), ("2e-2", 0.02)]
    + [(text, None) for text in ("", "%", "1,23", "1 2", "three", "--1", "1.2.3", "٣")],
)
def test_quantities_by_example(text, value):
    assert quantity(text) == (None if value is None else pytest.approx(value))


def test_anls_is_the_published_formula():
    """arXiv:1905.13648, section 5: s = 1 − NL where NL < τ = 0.5, else 0; the best over the references."""
    assert levenshtein("kitten", "sitting") == 3 and levenshtein("", "abc") == 3 == levenshtein("abc", "")
    assert score("anls", "sitting", "kitten") == pytest.approx(1 - 3 / 7)
    assert score("anls", "abxx", "abcd") == 0.0, "NL is τ"
    assert score("anls", "abcx", "abcd") == 0.75
    assert score("anls", " ABCD ", "abcd") == 1.0
    assert score("anls", "itc", "Itc Limited", "ITC") == 1.0
    assert score("anls", "", "abc") == 0.0


@settings(max_examples=60)
@given(st.text("ab c", max_size=9), st.text("ab c", max_size=9))
def test_levenshtein_is_that_of_the_textbook(one, other):
    rows = [[max(i, j) if not i or not j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a != b))
    assert levenshtein(one, other) == rows[-1][-1]


@pytest.mark.parametrize(("people", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten_people(people, accuracy):
    """The values that min(n / 3, 1), averaged over all nine of ten, can have: https://visualqa.org/evaluation.html."""
    references = ["yes"] * people + [f"other {number}" for number in range(10 - people)]
    assert score("vqa", "Yes.", *references) == pytest.approx(accuracy)


def test_vqa_accuracy_of_fewer_people():
    assert score("vqa", "yes", "yes") == score("vqa", "yes", "yes", "yes") == score("vqa", "yes", *["yes"] * 3) == 1.0
    assert score("vqa", "yes", "no") == score("vqa", "yes", "no", "no") == 0.0
    assert 0 < score("vqa", "yes", "yes", "no", "no") < 0.5


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat", "cat"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("dont", "don't"),
        ("don’t", "don't"),
        ("couldnt've", "couldn't've"),
        ("were", "were"),
        ("hot-dog", "hot dog"),
        ("yes, sir!", "yes sir"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("a\nb", "b"),
    ],
)
def test_vqa_normalisation_by_example(text, normal):
    assert normal_vqa(text) == normal


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("It is a red Bus.", "red bus", True),
        ("a car", "cat", False),
        ("concatenate", "cat", False),
        ("there are 7.", "7", True),
        ("7.5", "7", False),
        ("17", "7", False),
        ("1,007", "7", False),
        ("it is -7", "7", False),
        ("3-7", "7", True),
        ("costs 1,000 euros", "1000", True),
        ("cats, cat", "cat", True),
        ("", "cat", False),
        ("ünlü", "nl", False),
    ],
)
def test_what_an_answer_contains(answer, reference, right):
    assert score("contains", answer, reference) == right


def test_several_references_count_by_the_best():
    listed = references_of('["colour", "color"]')
    assert listed == ("colour", "color") == references_of('[{"answer": "colour"}, {"answer": "color", "id": 1}]')
    for name in METRICS.keys() - {"choice", "vqa"}:
        assert metric_of(name)("color", listed) == 1.0, name
    assert score("choice", "B", "A", "B") == 1.0


@pytest.mark.parametrize(
    "text", ["a cat", "[12, 40, 80, 90]", "[]", '["a", 1]', "[" * 100_000, '["a"', "[a]", '{"a": 1}']
)
def test_what_is_no_list_of_texts_is_one_reference(text):
    assert references_of(text) == (text,)


LONG = "A group of people stands around a table on which there are several kinds of food, and all of them laugh."


@pytest.mark.parametrize(
    ("references", "name"),
    [
        (["A", "B", "(C)", "D."], "choice"),
        (["7", "12", "0"], "exact"),
        (["7.0", "1,000"], "exact"),
        (["0.5", "12.75", "3"], "number"),
        (["12%", "40%", "blue"], "number"),
        (["blue", "red", "12%"], "exact"),
        (["$\\frac{1}{2}$", "\\boxed{3}"], "math"),
        (["12", "4", "\\sqrt{2}", "7", "9"], "math"),
        (["$5 and $7", "$12"], "exact"),
        (["3 + 4 = 7", "9 - 5 = 4"], "exact"),
        (["yes", "no"], "exact"),
        (["a", "I", "red"], "exact"),
        (["K", "X", "B"], "exact"),
        (["D. red", "A. blue", "(B) a cat", "C"], "choice"),
        (["b) blue", "(c) red"], "choice"),
        (["A: 4", "[B] 5"], "choice"),
        (["a", "b", "c", "d", "b"], "choice"),
        (["a", "b", "b) blue"], "choice"),
        (["a", "a"], "exact"),
        (["a", "b"] * 50 + ["the"], "exact"),
        (["a", "e", "m", "z"], "exact"),
        (list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), "exact"),
        (["A. red", "A. blue"], "exact"),
        (["A. red", "B. blue", "green"], "exact"),
        (["A red", "B blue"], "exact"),
        (["A. Smith", "B. Jones", "T. Brown", "J. Doe"], "exact"),
        (["e.g. this", "a.m."], "exact"),
        ([LONG, LONG, "yes"], "anls"),
        (['["yes", "yes", "no", "yes"]'] * 2, "vqa"),
        (['["colour", "color"]', "red"], "exact"),
        (['["A", "B"]', "C"], "choice"),
    ],
)
def test_auto_looks_at_the_references(references, name):
    assert choose([references_of(text) for text in references]) == name
    assert metrics_by_task("auto", [("t", text) for text in references]) == {"t": name}


@pytest.mark.parametrize(
    "text", ["D. red", "(B) a cat", "b) blue", "c: red", "[E] 5", "A. (B) and (C)", "B.\nred", "j"]
)
def test_what_auto_takes_for_an_option_has_a_letter(text):
    assert choose([[text], ["F"]]) == "choice" and score("choice", letter_of(text), text)


def test_auto_is_decided_task_by_task():
    references = [("which", "B"), ("how many", "7"), ("which", "(A)"), ("how many", "1,000")]
    assert metrics_by_task("auto", references) == {"how many": "exact", "which": "choice"}
    assert metrics_by_task("contains", references) == {"how many": "contains", "which": "contains"}
    assert scores_of("auto", ["Answer: B", "7.0", None, "1"], references) == [1.0, 1.0, 0.0, 0.0]


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no metric is named 'bleu'; known: auto, exact, choice.*python:"):
        check_metric("bleu")
    with pytest.raises(ConfigError, match=r"set evaluate\.metric: exact"):
        check_metric("whole")
    for name in ("auto", *METRICS):
        check_metric(name)


OWN = """
def begins(answer, reference): return answer[:1] == reference[:1]
def shared(answer, reference): return len(set(answer) & set(reference)) / 10
def broken(answer, reference): return 1 / 0
def strange(answer, reference): return {found}
none = 3
"""


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_metrics.py").write_text(OWN.format(found=2))
    assert score("python:own_metrics.begins", "yes", "no", "you") == 1.0
    assert score("python:own_metrics.shared", "abc", "abd") == 0.2
    for name, why in {
        "broken": "ZeroDivisionError",
        "strange": r"gives 2: it has to be a bool or a number from 0",
    }.items():
        with pytest.raises(ConfigError, match=why):
            score(f"python:own_metrics.{name}", "a", "b")
    for name, why in {
        "own_metrics.absent": r"cannot be imported .*has to lie in .*function absent",
        "own_metrics.none": "is no function, but a int",
        "no_such_module.f": "ModuleNotFoundError",
        "f": r"write python:MODULE\.FUNCTION",
        "os; x.f": r"write python:MODULE\.FUNCTION",
    }.items():
        with pytest.raises(ConfigError, match=why):
            metric_of(f"python:{name}")


@pytest.mark.parametrize("found", ["None", "'1'", "float('nan')", "-0.1", "[1]"])
def test_what_a_function_of_ones_own_may_not_give(found, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = f"strange_{abs(hash(found))}"
    (tmp_path / f"{module}.py").write_text(OWN.format(found=found))
    with pytest.raises(ConfigError, match=rf"python:{module}\.strange"):
        score(f"python:{module}.strange", "a", "b")


LETTERS = [
    "answer is " * 9000,
    "(" * 90_000,
    "A " * 40_000,
    "\\boxed{" * 12_000,
    "*_" * 40_000,
    "1,111" * 20_000,
    "$" * 90_000,
]
LETTERS += [
    "111," * 20_000,
    " " * 90_000,
    "9" * 90_000,
    "-" * 90_000,
    "the answer is" + " " * 90_000,
    "option " * 12_000,
]


@pytest.mark.parametrize("text", LETTERS, ids=lambda text: text[:12])
@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"math"}))
def test_no_text_takes_long(name, text):
    began = time.process_time()
    score(name, text, "B")
    score(name, text, text[::-1])
    choose([[text]])
    assert time.process_time() - began < 2
