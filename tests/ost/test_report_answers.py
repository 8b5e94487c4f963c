"""The answers on the report page: where two models part, what is wrong, and hostile text."""

import pyarrow as pa
import pytest
from test_report import HOSTILE, Tags, data, png

from ost.data import Dataset, Facts, Sample, ShardWriter, chat, write_samples
from ost.data.dataset import write_listing
from ost.data.picture import size_of
from ost.errors import DataError
from ost.evaluation import evaluate
from ost.report import Answers, missed, parted, render
from ost.report.answers import PER_TASK, SHOWN, TASKS
from ost.report.words import MANY, judged_words


def benchmark_of(folder, tasks: dict[str, int], question: str = "What is it?") -> Dataset:
    """So many questions of each task; the reference is `right`."""
    samples = [
        Sample((png(),), chat(f"{question} {task} {number}", "right"), task)
        for task, count in tasks.items()
        for number in range(count)
    ]
    return Dataset(write_samples(folder / "benchmark.parquet", samples))


def answers(label: str, benchmark: Dataset, right, said: str = "wrong", accuracy=None, how=None, **columns) -> Answers:
    """`right`: which questions, by place, are answered rightly; `how`: more of the evaluation's record."""
    hits = [place in right for place in range(len(benchmark))]
    texts = ["right" if hit else said for hit in hits]
    table = pa.table({"id": benchmark.ids(), "prediction": texts, "correct": hits} | columns)
    record = {"accuracy": sum(hits) / len(hits) if accuracy is None else accuracy, "metrics": {"sum": "number"}}
    return Answers.read(label, table, record | (how or {}))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Dataset:
    return benchmark_of(tmp_path_factory.mktemp("benchmark"), {"sum": 10, "colour": 10})


def test_questions_that_one_alone_answers_rightly_are_shown_each_way(benchmark):
    ours, full = (
        answers("Lookahead 20 %", benchmark, range(2, 20)),
        answers("Full-SFT", benchmark, {0, 2, 3, 4, 10, 19}),
    )
    found = parted(benchmark, ours, full, seed=0)
    assert (found.questions, found.gained, found.lost) == (20, 13, 1)
    assert [one.sample.task for one in found.gains] == ["colour"] * PER_TASK + ["sum"] * PER_TASK
    for one in found.gains:
        assert (one.answers["Lookahead 20 %"].correct, one.answers["Full-SFT"].correct) == (True, False)
        assert one.metric == ("number" if one.sample.task == "sum" else "")
    (lost,) = found.losses
    assert lost.sample.id == benchmark.ids()[0] and not lost.answers["Lookahead 20 %"].correct
    assert found == parted(benchmark, ours, full, seed=0) != parted(benchmark, ours, full, seed=1)
    text = Tags(render(data(parted=found))).spaced
    assert "Of 20 benchmark questions Lookahead 20 % alone answers 13 rightly, and Full-SFT alone 1." in text
    assert text.count("✓ right") == text.count("✗ wrong") == 7 and text.count("Reference right") == 7
    assert "Lookahead 20 % is right, Full-SFT is wrong" in text and "Full-SFT is right, Lookahead 20 % is wrong" in text
    assert "compared by number" in text


def test_of_many_tasks_those_are_shown_in_which_they_part_most(tmp_path):
    benchmark = benchmark_of(tmp_path, {f"task {number:02}": 1 + number for number in range(10)})
    found = parted(benchmark, answers("a", benchmark, range(99)), answers("b", benchmark, ()), seed=0)
    assert {one.sample.task for one in found.gains} == {f"task {number:02}" for number in range(10 - TASKS, 10)}
    assert len(found.gains) == PER_TASK * TASKS and found.gained == 55


def test_models_that_answer_alike_have_nothing_to_show(benchmark):
    same = answers("a", benchmark, {1, 2}), answers("b", benchmark, {1, 2})
    found = parted(benchmark, *same, seed=0)
    assert (found.gained, found.lost, found.gains, found.losses) == (0, 0, [], [])
    text = Tags(render(data(parted=found))).spaced
    assert "a alone answers 0 rightly, and b alone 0." in text and "drawn at random" not in text


def test_answers_that_were_cut_or_empty_are_marked(benchmark):
    cut = answers("a", benchmark, (), said="an answer without", cut=[True] * 20)
    mute = answers("b", benchmark, {0}, said=" \n")
    text = Tags(render(data(parted=parted(benchmark, mute, cut, seed=0)))).spaced
    assert "an answer without ✗ wrong, cut at the token limit" in text
    text = Tags(render(data(parted=parted(benchmark, mute, answers("c", benchmark, range(5)), seed=0)))).spaced
    assert "(empty) ✗ wrong" in text and "cut at" not in text


def test_a_model_that_is_never_right_is_shown_beside_the_references(benchmark):
    cuts = [place < 15 for place in range(20)]
    base, part = answers("Base model", benchmark, (), cut=cuts), answers("Part", benchmark, (), accuracy=0.6)
    (found,) = missed(benchmark, [base, answers("Full-SFT", benchmark, range(10)), part], seed=0)
    assert (found.label, found.questions, found.cut, found.empty) == ("Base model", 20, 0.75, 0.0)
    assert len(found.some) == SHOWN
    text = Tags(render(data(missed=[found]))).spaced
    assert "Base model answers no question rightly" in text and "75.0 % were cut and 0.0 % are empty" in text
    for reason in ("another form than the references", "evaluate.max_new_tokens", "no end token"):
        assert reason in text
    assert text.count("Reference right") == SHOWN and "Wrong answers" not in text


def test_of_a_model_that_is_mostly_wrong_each_kind_of_wrong_answer_is_shown_and_empty_ones_first(benchmark):
    said = ["", " "] * 7 + ["an answer without", "so much so"] + ["blue"] * 3 + ["right"]
    cuts = [text in ("an answer without", "so much so") for text in said]
    full = answers("Full-SFT", benchmark, {19}, prediction=said, cut=cuts)
    (found,) = missed(benchmark, [full, answers("Random 20 %", benchmark, range(15))], seed=0)
    assert (found.label, found.accuracy, found.empty, found.cut) == ("Full-SFT", 0.05, 0.7, 0.1)
    told = [one.answers["Full-SFT"] for one in found.some]
    assert [(one.empty, one.cut) for one in told] == [(True, False), (True, False), (False, True), (False, False)]
    text = Tags(render(data(missed=[found]))).spaced
    assert "Wrong answers" in text and "answers no question rightly" not in text
    assert "Full-SFT: accuracy 5.0 %, 70.0 % of the answers are empty, 10.0 % were cut" in text
    assert text.count("(empty) ✗ wrong") == 2 and "blue ✗ wrong" in text and "✗ wrong, cut at the token limit" in text
    assert missed(benchmark, [full], seed=1) != [found] == missed(benchmark, [full], seed=0)


@pytest.mark.parametrize(("unsaid", "shown"), [(5, False), (6, True)])
def test_answers_are_shown_where_more_than_a_quarter_are_empty_or_cut(benchmark, unsaid, shown):
    """Those of 20 that are wrong, be the model mostly right or not; half of them say nothing, half are cut."""
    said = ["" if place % 2 and place < unsaid else "blue" for place in range(20)]
    cuts = [place < unsaid and not place % 2 for place in range(20)]
    model = answers("Full-SFT", benchmark, range(unsaid, 20), prediction=said, cut=cuts)
    found = missed(benchmark, [model], seed=0)
    assert [one.label for one in found] == ["Full-SFT"] * shown


def test_of_the_main_model_a_few_wrong_answers_are_always_shown(benchmark):
    good, perfect = answers("Lookahead 20 %", benchmark, range(18)), answers("Lookahead 20 %", benchmark, range(20))
    assert missed(benchmark, [good], seed=0) == []
    (found,) = missed(benchmark, [good], seed=0, always="Lookahead 20 %")
    assert [one.answers["Lookahead 20 %"].text for one in found.some] == ["wrong"] * 2
    text = Tags(render(data(missed=[found]))).spaced
    assert "Lookahead 20 %: accuracy 90.0 %" in text and "of the answers are empty" not in text
    assert missed(benchmark, [perfect], seed=0, always="Lookahead 20 %") == []


def test_an_older_evaluation_does_not_tell_what_was_cut(benchmark):
    table = pa.table({"id": benchmark.ids(), "prediction": [""] * 20, "correct": [False] * 20})
    (found,) = missed(benchmark, [Answers.read("Base model", table, {"accuracy": 0.0})], seed=0)
    assert (found.cut, found.empty) == (None, 1.0)
    text = Tags(render(data(missed=[found]))).spaced
    assert "Of its answers 100.0 % are empty" in text and "were cut and" not in text


def test_a_question_without_a_task_is_shown_with_that_of_its_file_and_its_metric(tmp_path):
    with ShardWriter(tmp_path / "sets") as writer:
        for at, file in enumerate(["docvqa.jsonl", "chartqa.jsonl.gz"] * 2):
            sample = Sample((png(),), chat(f"What is it? {at}", "right"))
            writer.add(sample, Facts(40, 3, tuple(map(size_of, sample.images)), file, at, None))
    write_listing(tmp_path / "sets", writer.shards, {})
    sets = Dataset(tmp_path / "sets")
    how = {"metrics": {"docvqa": "anls", "chartqa": "number"}}
    found = parted(sets, answers("a", sets, range(4), how=how), answers("b", sets, ()), seed=0)
    assert {(one.sample.task, one.metric) for one in found.gains} == {("docvqa", "anls"), ("chartqa", "number")}
    (never,) = missed(sets, [answers("b", sets, (), how=how)], seed=0)
    assert {one.metric for one in never.some} == {"anls", "number"}


JUDGED = {
    "one for all, by name": (
        {"metric": "exact", "metrics": {"sum": "exact", "which": "exact"}},
        "exact, whatever the task",
    ),
    "one task": ({"metric": "auto", "metrics": {"": "exact"}}, "exact, chosen by auto"),
    "several": (
        {"metric": "auto", "metrics": {"sum": "exact", "which": "choice", "": "exact"}},
        "choice (which) and exact (unnamed, sum), chosen by auto",
    ),
    "some by name": (
        {
            "metric": {"chart": "number", "doc": "auto"},
            "metrics": {"chart": "number", "doc": "anls", "which": "choice"},
        },
        "anls (doc), choice (which) and number (chart); auto chose it for doc, which",
    ),
    "a suite's": ({"metric": None, "metrics": {"pope": "acc", "mmmu": "mmmu_acc"}}, "acc (pope) and mmmu_acc (mmmu)"),
    "very many": (
        {"metric": "exact", "metrics": {f"task {at:02}": "exact" if at else "choice" for at in range(10)}},
        "choice (task 00) and exact (task 01, task 02, task 03, task 04, task 05, task 06, 3 more)",
    ),
}


@pytest.mark.parametrize("case", JUDGED)
def test_the_page_says_by_which_metrics_answers_were_judged(case, benchmark):
    how, words = JUDGED[case]
    told = answers("Base model", benchmark, {1}, how=how), answers("Full-SFT", benchmark, {1}, how=how)
    assert f"Answers are compared with the references by {words}." in Tags(render(data(answers=told))).text


def test_the_page_says_what_the_limit_left_no_room_for(benchmark):
    how = {"max_new_tokens": 4, "longer": 0.125}
    base = answers("Base model", benchmark, (), said=" ", cut=[place < 6 for place in range(20)], how=how)
    full = answers("Full-SFT", benchmark, range(20), cut=[place < 2 for place in range(20)], how=how)
    ours = answers("Lookahead 20 %", benchmark, range(19), said="", cut=[place < 1 for place in range(20)], how=how)
    text = Tags(render(data(answers=[base, full, ours]))).text
    assert "An answer may have up to 4 tokens, and the references of 12.5 % of the questions are longer: set" in text
    assert "Answers cut at the limit: Base model 30.0 %, Full-SFT 10.0 %." in text
    assert "Answers that are empty: Base model 100.0 %." in text
    fits = answers("Full-SFT", benchmark, range(20), how={"max_new_tokens": 1040, "longer": 0.0})
    text = Tags(render(data(answers=[fits]))).text
    assert "An answer may have up to 1,040 tokens." in text and "cut at the limit" not in text
    assert MANY == evaluate.MANY, "the page is silent where the evaluation warns"
    old = pa.table({"id": benchmark.ids(), "prediction": ["x"] * 20, "correct": [True] * 20})
    assert judged_words([Answers.read("Full-SFT", old, {"accuracy": 1.0})]) == []


def test_answers_to_another_benchmark_are_refused(benchmark, tmp_path):
    other = benchmark_of(tmp_path, {"sum": 2}, "Who is it?")
    with pytest.raises(DataError, match="not in benchmark"):
        parted(benchmark, answers("a", other, {0}), answers("b", other, ()), seed=0)


def test_hostile_answers_are_only_text(tmp_path):
    benchmark = benchmark_of(tmp_path, {HOSTILE: 3}, HOSTILE)
    bad = answers(HOSTILE, benchmark, (), said=HOSTILE + '"><img src=x onerror=y>' + "x" * 5000)
    good = answers("Full-SFT", benchmark, range(3))
    found = parted(benchmark, good, bad, seed=0)
    tags = Tags(render(data(parted=found, missed=missed(benchmark, [bad], seed=0))))
    assert not tags.open
    assert not [tag for tag, attrs in tags.found if tag == "script" or any(name.startswith("on") for name in attrs)]
    sources = {attrs["src"][:22] for tag, attrs in tags.found if tag == "img"}
    assert sources == {"data:image/png;base64,"} and "more characters)" in tags.text
    assert tags.text.count(HOSTILE) >= 15
