"""lmms-eval's log, read as an evaluation; the lines are of the form that its 0.7.3 wrote for tests/clients."""

import json
from pathlib import Path

import pytest

from ost.errors import EvaluationError
from ost.evaluation.lmms_eval import read_logs

HASH = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
"""Of every document, in 0.7.3: of `null`."""


def line(number: int, said: object = "A", **metrics: object) -> dict:
    about = {"doc_id": number, "target": "A", "filtered_resps": said, "token_counts": [None], "doc_hash": HASH}
    return about | metrics | {"input": "Which letter?"}


def left(folder: Path, task: str, lines: list[dict], figures: dict[str, float] | None = None, **more: dict) -> Path:
    """A folder as lmms-eval leaves it for a task, beneath a model's name, or with one more task."""
    own = folder / "sft__full-B"
    own.mkdir(exist_ok=True)
    log = own / f"20261128_183551_samples_{task}.jsonl"
    log.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))
    results = {"results": {task: {"alias": task} | (figures or {})}, "configs": {task: {"task": task}}, "date": "2026"}
    (own / f"{task}_results.json").write_text(json.dumps(results | {name: {task: one} for name, one in more.items()}))
    return folder


def verdict(said: object, right: object, **more: str) -> dict:
    return {"id": "validation_Art_1", "answer": right, "parsed_pred": said} | more


def test_numbers_are_scores_and_each_sample_is_a_cluster_in_spite_of_the_hash(tmp_path):
    lines = [line(1, "B", exact_match=0.0), line(0, exact_match=1.0), line(2, ["a", "b"], exact_match="True")]
    ids, found = read_logs(left(tmp_path, "shapes", lines, {"exact_match,none": 0.667}))
    assert ids == ["shapes/0", "shapes/1", "shapes/2"] and found.scores == [1.0, 0.0, 1.0]
    assert found.predictions == ["A", "B", '["a", "b"]'] and found.cut == [False] * 3
    assert found.by_task == {"shapes": pytest.approx(2 / 3)} and found.accuracy == pytest.approx(2 / 3)
    assert found.metrics == {"shapes": "exact_match"} and found.clusters.tolist() == [0, 1, 2] and not found.warnings
    assert found.interval[0] < found.accuracy < found.interval[1]


def test_samples_that_name_the_same_image_are_one_cluster_within_a_task(tmp_path):
    for task in ("maps", "charts"):
        lines = [line(at, acc=1.0, input_media=[image]) for at, image in enumerate(("a.png", "b.png", "a.png"))]
        left(tmp_path, task, lines, {"acc,none": 1.0})
    ids, found = read_logs(tmp_path)
    assert ids[:3] == ["charts/0", "charts/1", "charts/2"] and found.clusters.tolist() == [0, 1, 0, 2, 3, 2]


SCORED = {
    "the first that is a number": ({"half": 0.5, "acc": 1.0}, "half", 0.5),
    "not one of which less is better": ({"wer": 0.2, "acc": 1.0}, "acc", 1.0),
    "a number before a dict": ({"pope": {"score": 1.0}, "acc": False}, "acc", 0.0),
    "a score within a dict": ({"pope": {"question_id": 3, "score": 1.0, "prediction": "no"}}, "pope", 1.0),
    "a verdict within a dict": ({"blink": {"pred": "(A) x", "answer": "A", "is_correct": True}}, "blink", 1.0),
    "true or false of MathVista": ({"judge": {"true_false": False, "answer": "2"}, "submission": {}}, "judge", 0.0),
    "a choice of MMMU": ({"mmmu": verdict(["B"], "B", question_type="multiple-choice")}, "mmmu", 1.0),
    "another choice": ({"mmmu": verdict(["C"], "B", question_type="multiple-choice")}, "mmmu", 0.0),
    "an open answer in what was said": (
        {"mmmu": verdict([["it is a cat", 2.0]], "Cat", question_type="open")},
        "mmmu",
        1.0,
    ),
    "an open number": ({"mmmu": verdict([["about", 1234.57]], "1,234.567", question_type="open")}, "mmmu", 1.0),
    "a letter within a word": ({"mmmu": verdict([["cat"]], "a", question_type="open")}, "mmmu", 0.0),
    "SEED-Bench": ({"seed": {"pred": "a ", "answer": "A", "question_id": 1}}, "seed", 1.0),
}


@pytest.mark.parametrize("case", SCORED)
def test_where_a_samples_score_is_found(case, tmp_path):
    metrics, name, score = SCORED[case]
    folder = left(tmp_path, "task", [line(0, **metrics)], {f"{name},none": score}, higher_is_better={"wer": False})
    _, found = read_logs(folder)
    assert (found.metrics["task"], found.scores) == (name, [score])


def test_where_samples_have_metrics_of_their_own_the_common_one_counts_else_each_its_own(tmp_path):
    scored = [{"score": 1.0}, {"score": 0.0}]
    left(tmp_path, "mmstar", [line(at, **{f"kind {at}": one, "average": one}) for at, one in enumerate(scored)])
    left(tmp_path, "mme", [line(at, **{f"kind {at}": one}) for at, one in enumerate(scored)])
    _, found = read_logs(tmp_path)
    assert found.metrics == {"mmstar": "average", "mme": "kind 0 / kind 1"} and found.scores == [1.0, 0.0] * 2


def test_of_several_filters_the_first_counts(tmp_path):
    lines = [line(0, acc=0.0), line(1, acc=1.0), line(0, acc=1.0), line(1, acc=1.0)]
    _, found = read_logs(left(tmp_path, "gsm", lines, {"acc,strict": 0.5, "acc,flexible": 1.0}))
    assert found.scores == [0.0, 1.0] and not found.warnings


@pytest.mark.parametrize(
    ("metrics", "figures", "said"),
    [
        (
            {"submission": {"question_id": 1}},
            {},
            "log of task has no number from 0 to 1(.*) has submission: question_id",
        ),
        ({"gpt_eval": 7.5}, {"gpt_eval,none": 7.5}, "it has gpt_eval: 7.5"),
        ({"cider": {"pred": "a cat", "answer": ["a dog"]}}, {"cider,none": 0.8}, "it has cider: pred, answer"),
        (
            {"mmbench": {"prediction": "A. cat", "answer": "A"}},
            {"mmbench,none": 100.0},
            "come to the task's own figure",
        ),
    ],
)
def test_a_task_without_a_score_a_sample_is_refused_with_what_it_has(metrics, figures, said, tmp_path):
    with pytest.raises(EvaluationError, match=said):
        read_logs(left(tmp_path, "task", [line(0, **metrics)], figures))


def test_what_a_person_should_know_of_the_scores_is_said(tmp_path):
    figures = {"f1,none": 0.9, "f1_stderr,none": 0.0}
    folder = left(tmp_path, "pope", [line(0, f1=0.0)], figures, **{"n-samples": {"original": 9, "effective": 3}})
    told = read_logs(folder)[1].warnings
    assert told == [
        "pope: lmms-eval logged 1 of 3 samples",
        "pope: the mean of the samples' f1 is 0.0%, and lmms-eval's own figure is 0.9",
        "pope: every one of 1 answers scores 0 %, such as 'A'",
    ]
    percent = read_logs(left(tmp_path, "pope", [line(0, f1=0.9)], {"f1,none": 90.0}))[1]
    assert not percent.warnings


def test_logs_that_are_not_there_or_no_logs_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="left no log of samples"):
        read_logs(tmp_path)
    left(tmp_path, "shapes", [line(0, acc=1.0)])
    (left(tmp_path, "maps", [line(0, acc=1.0)]) / "sft__full-B/20261128_183551_samples_maps.jsonl").unlink()
    with pytest.raises(EvaluationError, match="no log of the samples of maps, which it ran"):
        read_logs(tmp_path)
    (tmp_path / "sft__full-B/20261128_183551_samples_maps.jsonl").write_text("[1]\n")
    with pytest.raises(EvaluationError, match=r"no object with `doc_id` in '\[1\]"):
        read_logs(tmp_path)
