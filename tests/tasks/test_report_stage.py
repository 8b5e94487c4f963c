"""The stage `report` in a workspace whose other stages only left their files: what it reads and what the page says."""

import numpy as np
import pyarrow as pa
import pytest
from specimens import drawn
from tiny_workspace import shown_by

from flows.parameters import set_params
from ost.data import write_samples
from ost.selection import by_utility
from ost.selection.signal import Signal
from ost.settings import Select
from ost.store import lists, read_json, read_table, write_json, write_table
from tasks.pipeline import manifest_path, report_reads
from tasks.plan import Plan
from tasks.settings import load_params
from tasks.stages.run import execute

NONE = Signal(20, 0.5, 0.46, 0.9, 1.3, 0.07)
RIGHT = {"base": range(0), "full-B": range(10), "lookahead-20-B": range(5, 18), "lookahead-20-A": range(0)}
"""Training → which of the 20 benchmark questions it answers rightly."""


def anchor_rows(anchors, left_out, **more):
    named = {"id": [one.id for one in anchors], "task": [""] * len(anchors)}
    return pa.table(named | {"left_out": left_out, "swapped": [2.0] * len(anchors)} | more)


@pytest.fixture
def finished(folder):
    """The workspace before its report: a pool of 40, with scores that cannot tell."""
    set_params(folder / "params.yaml", ["curate.subsets=[full, lookahead-20]", "data.truth=null"])
    pool, benchmark = drawn("pool", 40), drawn("benchmark", 20)
    for name, samples in {"pool": pool, "benchmark": benchmark}.items():
        write_samples(folder / f"data/{name}", samples)
    write_table(
        folder / "data/truth.parquet", pa.table({"id": pa.array([], pa.string()), "wrong": pa.array([], pa.bool_())})
    )
    utility = np.linspace(1, -1, 40)
    columns = {
        "id": [sample.id for sample in pool],
        "utility": utility,
        "utility_relative": -utility,
        "toxic": [False] * 40,
        "loss": np.ones(40),
        "task": [sample.task for sample in pool],
    }
    scores = NONE.onto(pa.table(columns))
    write_table(folder / "scores/lookahead.parquet", scores)
    anchors = drawn("anchors", 12)
    write_samples(folder / "data/anchors", anchors)
    write_table(folder / "scores/lookahead-anchors.parquet", anchor_rows(anchors, [0.1] * 12))
    for key, fraction in {"full": 1.0, "lookahead-20": 0.2}.items():
        table = by_utility(scores, fraction, Select(strategy="top", clean_below=0.0), 0)
        write_table(folder / f"selections/{key}.parquet", table)
    for key, right in RIGHT.items():
        hits = [place in right for place in range(20)]
        answers = {"id": [one.id for one in benchmark], "prediction": [f"said by {key}"] * 20, "correct": hits}
        write_table(folder / f"evaluations/{key}.parquet", pa.table(answers))
        cost = {"samples": 8, "steps": 4, "train_seconds": 1.0, "train_flops": 1e9}
        how = {"metric": "auto", "metrics": {"sum": "exact", "product": "number"}, "max_new_tokens": 5, "longer": 0.25}
        write_json(folder / f"evaluations/{key}.json", {"accuracy": sum(hits) / 20, "by_task": {}} | how | cost)
    counts = {"pool": {"read": 40, "kept": 40, "quarantined": 0, "reasons": {}}}
    write_json(folder / "metrics/ingest.json", {"counts": counts})
    for stage in ("ingest", "warmup", "score-lookahead", "select-full", "select-lookahead-20"):
        told = NONE.warnings if stage in ("score-lookahead", "select-lookahead-20") else []
        metrics = {"steps": 12.0, "pool": 40.0}
        manifest = {"stage": stage, "seconds": 1.0, "flops": 1e9, "warnings": told, "metrics": metrics}
        write_json(folder / manifest_path(stage), manifest)
    return folder


def test_it_reads_what_dvc_yaml_lists_and_shows_answers(finished):
    manifest = execute("report", finished)
    assert set(manifest["inputs"]) == set(report_reads(finished, Plan(load_params(finished / "params.yaml"))))
    page = finished / "report/index.html"
    text = shown_by(page)
    ours, full = "Lookahead 20 %, protocol B", "Full-SFT"
    assert f"Of 20 benchmark questions {ours} alone answers 8 rightly, and {full}\nalone 5." in text
    assert f"{ours} is right, {full} is wrong" in text and f"{full} is right, {ours} is wrong" in text
    assert "said by full-B" in text and "said by lookahead-20-B" in text
    assert "compared with the references by exact (sum) and number (product), chosen by auto." in text
    assert "up to 5 tokens, and the references of 25.0 % of the questions are longer" in text
    for label in ("Base model", "Lookahead 20 %, protocol A"):
        assert f"{label} answers no question rightly" in text
    assert f"{ours}: accuracy 65.0 %" in text, "the main model's wrong answers are always shown"
    assert f"{full}: accuracy" not in text, "half of its answers are right"
    assert len(page.read_bytes()) < 2_000_000


def test_outside_of_git_no_commit_is_told(finished):
    execute("report", finished)
    assert "<dt>seed</dt>" in (page := (finished / "report/index.html").read_text()) and "<dt>commit</dt>" not in page


def test_without_full_sft_the_base_stands_beside_it(finished):
    set_params(finished / "params.yaml", ["curate.subsets=[lookahead-20]", "curate.protocols=[A]"])
    execute("report", finished)
    text = shown_by(finished / "report/index.html")
    assert "Lookahead 20 % alone answers 0 rightly, and Base model\nalone 0." in text


def test_a_suites_answers_count_and_its_questions_are_not_looked_for_in_the_benchmark(finished):
    set_params(finished / "params.yaml", ["evaluate.suite=lmms-eval", "evaluate.suite_tasks=[pope]"])
    for key in RIGHT:
        file = finished / f"evaluations/{key}.parquet"
        answers = read_table(file)
        write_table(file, answers.set_column(0, "id", pa.array([f"pope/{at}" for at in range(len(answers))])))
    execute("report", finished)
    text = shown_by(finished / "report/index.html")
    assert "alone answers" not in text and "answers no question rightly" not in text
    assert {row["accuracy"] for row in read_json(finished / "metrics/arms.json")} >= {0.0, 0.5}


def test_it_says_what_ranked_where_the_kept_are_and_that_the_scores_cannot_tell(finished):
    execute("report", finished)
    text = shown_by(finished / "report/index.html")
    assert "Data selection by lookahead utility" in text and "after 12 training steps on the trusted anchors" in text
    assert "First in the order of utility relative to the sample&#39;s own loss" in text
    assert "Of these Lookahead 20 %, chosen for breadth, keeps 8 of 12." in text, "ranked by another column"
    assert "this proxy cannot tell whether they harm" in text and "toxic beyond chance" not in text
    assert "selections/lookahead-20.parquet" in text
    assert text.count("the scores cannot tell right from wrong") == 2, "a warning, once, and before what the scores say"
    rows = read_json(finished / "metrics/arms.json")
    assert {row["subset"] for row in rows} == {"base", "full", "lookahead-20"}


def test_anchors_that_the_others_contradict_are_shown_with_question_and_answer(finished):
    execute("report", finished)
    assert "Anchors that the others contradict" not in shown_by(finished / "report/index.html")
    anchors = drawn("anchors", 12)
    write_table(finished / "scores/lookahead-anchors.parquet", anchor_rows(anchors, [0.1] * 11 + [3.0]))
    execute("report", finished)
    text = shown_by(finished / "report/index.html").partition("Anchors that the others contradict")[2]
    text = text.partition("The samples that rank")[0]
    assert anchors[11].answer in text and "loss 3.00 nats; wrong ones have 2.00 and more" in text
    assert anchors[0].answer not in text


def test_what_no_anchor_asks_for_is_shown_without_its_answers(finished):
    """Ten of the pool's 40 samples are a cluster of their own, far from all anchors."""
    execute("report", finished)
    assert "What no anchor asks for" not in shown_by(finished / "report/index.html"), "there are no sketches"
    pool, anchors = drawn("pool", 40), drawn("anchors", 12)
    sketch = lists(np.eye(8)[np.repeat([0, 1], [30, 10])].astype(np.float16))
    scores = read_table(finished / "scores/lookahead.parquet")
    write_table(finished / "scores/lookahead.parquet", scores.append_column("sketch", sketch))
    near = lists((np.eye(8)[[0] * 12] + 0.1 * np.eye(8)[2]).astype(np.float16))
    write_table(finished / "scores/lookahead-anchors.parquet", anchor_rows(anchors, [0.1] * 12, sketch=near))
    execute("report", finished)
    text = shown_by(finished / "report/index.html").partition("What no anchor asks for")[2]
    text = text.partition("The samples that rank")[0]
    assert "10 of its 40 samples, lie far from every anchor" in text and "ost anchors suggest" in text
    assert [one for one in pool[30:] if one.id[:8] in text] == [], "a sample's id is a digest of its answer as well"
    assert "What is" in text and not [one.answer for one in pool if one.answer in text]
