"""`ost anchors`, as a user types it, from a curated workspace to one that knows more anchors."""

import json
import os
import re
import signal
import subprocess
import urllib.request

import pytest
import yaml
from tiny_workspace import Shell
from typer.testing import CliRunner

from flows.cli.main import app
from flows.parameters import set_params
from ost.anchors import question_of
from ost.data import Dataset
from ost.store import read_json, read_table
from tasks.versioning import stale_stages

pytestmark = pytest.mark.usefixtures("on_one_server")
SHEET = "anchors-to-answer.jsonl"


@pytest.mark.parametrize("command", ["suggest", "answer", "add"])
def test_help_teaches(command):
    text = CliRunner().invoke(app, ["anchors", command, "--help"]).output
    assert "Usage" in text and len(text) > 500


def fill(shell: Shell, answers: list[str | None]) -> None:
    lines = (shell.root / SHEET).read_text().splitlines()
    records = [json.loads(line) | {"answer": text} for line, text in zip(lines, answers, strict=True)]
    (shell.root / SHEET).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_questions_are_suggested_answered_added_and_the_pool_is_scored_anew(copied):
    said = copied.ost("anchors", "suggest", "--count", "5")
    assert "5 questions" in said and f"ost anchors answer {copied.root / SHEET}" in said
    asked = [json.loads(line) for line in (copied.root / SHEET).read_text().splitlines()]
    pool, anchors = (Dataset(copied.root / f"data/{name}") for name in ("pool", "anchors"))
    by_question = {question_of(one).id: one for one in pool}
    assert all(one["id"] in by_question and one["answer"] is None for one in asked)
    assert not {one["id"] for one in asked} & {question_of(one).id for one in anchors}
    assert "there already" in copied.ost("anchors", "suggest", ok=False)
    assert "0 added, 0 known before, 5 without" in copied.ost("anchors", "add", SHEET)
    params = (copied.root / "params.yaml").read_text()

    fill(copied, ["1 + 1 = 2", "4", None, "", "9"])
    said = copied.ost("anchors", "add", SHEET)
    assert "3 added, 0 known before, 2 without an answer" in said and "next: ost curate" in said
    changed = (copied.root / "params.yaml").read_text()
    assert yaml.safe_load(changed)["data"]["added_anchors"] == "anchors-added.parquet"
    assert len(changed.splitlines()) == len(params.splitlines()), "the comments are kept"
    before = (copied.root / "anchors-added.parquet").read_bytes()
    assert "0 added, 3 known before" in copied.ost("anchors", "add", SHEET)
    assert (copied.root / "anchors-added.parquet").read_bytes() == before
    assert "changed since the pool was scored" in copied.ost("anchors", "suggest", "-o", "more.jsonl", ok=False)

    first = len(anchors), len(pool)
    copied.ost("curate", "--until", "score")
    anchors, pool = (Dataset(copied.root / f"data/{name}") for name in ("anchors", "pool"))
    assert (len(anchors), len(pool)) == (first[0] + 3, first[1] - 3), "the samples that asked leave the pool"
    assert read_table(copied.root / "scores/lookahead-anchors.parquet")["id"].to_pylist() == anchors.ids()
    assert "anchors-added.parquet" in copied.manifests()["ingest"]["inputs"]
    assert not stale_stages(copied.root) & {"ingest", "warmup", "score-lookahead"}
    copied.ost("anchors", "suggest", "--count", "200", "--out", "more.jsonl")
    ids = {json.loads(line)["id"] for line in (copied.root / "more.jsonl").read_text().splitlines()}
    assert len(ids) == len({question_of(one).id for one in pool}), "all that is left, each once"
    assert not ids & {one["id"] for one in (asked[0], asked[1], asked[4])}

    (copied.root / "anchors-added.parquet").unlink()
    assert "anchors-added.parquet" in copied.ost("curate", "--until", "ingest", ok=False)


def test_an_answer_that_contradicts_an_anchor_changes_nothing(copied):
    copied.ost("anchors", "suggest", "--count", "2")
    fill(copied, ["1", "2"])
    copied.ost("anchors", "add", SHEET)
    before = (copied.root / "anchors-added.parquet").read_bytes(), (copied.root / "params.yaml").read_bytes()
    fill(copied, ["1", "3"])
    said = copied.ost("anchors", "add", SHEET, ok=False)
    assert "nothing is added" in said and "'3', and an anchor says '2'" in said
    assert ((copied.root / "anchors-added.parquet").read_bytes(), (copied.root / "params.yaml").read_bytes()) == before


@pytest.mark.parametrize("table", ["s3://bucket/anchors.parquet", "more.json"])
def test_answers_go_into_a_local_table_alone(copied, table):
    copied.ost("anchors", "suggest", "--count", "1")
    fill(copied, ["1"])
    set_params(copied.root / "params.yaml", [f"data.added_anchors={table}"])
    said = " ".join(copied.ost("anchors", "add", SHEET, ok=False).split())
    assert f"data.added_anchors is {table}, and what is added goes into a local Parquet table" in said
    assert not (copied.root / "s3:").exists()


def test_the_page_is_served_until_ctrl_c_and_says_what_comes_next(copied):
    copied.ost("anchors", "suggest", "--count", "2")
    command = ["ost", "anchors", "answer", SHEET]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | copied.environment
    with subprocess.Popen(
        command, cwd=copied.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as served:
        said = served.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", said)
        assert found, said + served.stdout.read()
        address = found[0]
        body = json.dumps({"at": 1, "answer": "from the page"}).encode()
        with urllib.request.urlopen(urllib.request.Request(address + "answer", body)) as reply:
            assert json.load(reply) == {"answered": 1}
        served.send_signal(signal.SIGINT)
        said = served.stdout.read()
        assert served.wait(10) == 0
    assert "1 of 2 answered" in said and f"next: ost anchors add {SHEET}" in said
    assert "1 added" in copied.ost("anchors", "add", SHEET)
    kept = read_json(copied.root / "metrics/ingest.json")["counts"]["anchors"]["kept"]
    assert kept == 20, "not before the next curate"


def test_without_scores_it_is_said_what_to_run(tmp_path, prefect_home):
    shell = Shell(tmp_path, {})
    shell.ost("init", "--world", "handmath")
    assert "run ost curate --until score" in shell.ost("anchors", "suggest", ok=False)
    assert "`ost anchors suggest` writes one" in shell.ost("anchors", "answer", "none.jsonl", ok=False)
