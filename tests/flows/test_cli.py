"""The `ost` command, as a user types it."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from tiny_workspace import TINY, make_workspace

from ost.data import read_samples
from ost.selection import kept_ids
from ost.store import read_json, read_table


@pytest.mark.parametrize("command", ["", "curate", "score", "select", "report", "lineage"])
def test_help_teaches(curated, command):
    text = curated.run("ost", *command.split(), "--help")
    assert "Usage" in text and len(text) > 300


def test_score_and_select_work_on_files_alone(curated, tmp_path):
    scores, subset = tmp_path / "utility.parquet", tmp_path / "subset.parquet"
    files = ["world/pool.parquet", "--anchors", "world/anchors.parquet", "--proxy", "models/proxy-warm"]
    curated.run("ost", "score", *files, "--out", str(scores))
    assert read_table(scores).equals(read_table(curated.root / "scores/utility.parquet"))
    curated.run("ost", "select", str(scores), "--fraction", "0.2", "--out", str(subset))
    assert read_table(subset).equals(read_table(curated.root / "selections/ost.parquet"))


def test_lineage_walks_from_a_model_to_the_commit(curated):
    text = curated.run("ost", "lineage", "ost-target@ost-B")
    commit = curated.run("git", "rev-parse", "HEAD").strip()
    for artifact in ("selections/ost.parquet", "scores/utility.parquet", "models/proxy-warm", "data/pool.parquet"):
        assert artifact in text
    lines = [line for line in text.splitlines() if "world/pool.parquet" in line]
    assert lines and all(commit[:10] in line for line in lines), text
    assert "not made by a recorded run" not in text


def test_lineage_walks_from_a_sample_to_the_models_trained_on_it(curated):
    selections = {arm: read_table(curated.root / f"selections/{arm}.parquet") for arm in ("ost", "random", "ost-wide")}
    kept = {arm: set(kept_ids(table)) for arm, table in selections.items()}
    sample = min(kept["ost"] - kept["random"])
    text = curated.run("ost", "lineage", sample)
    rows = {arm: next(line for line in text.splitlines() if f" {arm} " in line.replace("│", " ")) for arm in kept}
    assert "none" in rows["random"] and "none" not in rows["ost"]
    for run in ("full-B", "ost-A", "ost-B", "ost-wide-A", "ost-wide-B"):
        assert f"({run}, accuracy" in text
    assert "random-" not in text


def test_an_unknown_name_has_no_lineage(curated):
    assert "error:" in curated.run("ost", "lineage", "nobody", ok=False)
    assert "no version 99" in curated.run("ost", "lineage", "ost-target/99", ok=False)


def test_report_is_made_again_when_it_is_lost(copied):
    (copied.root / "report/index.html").unlink()
    printed = copied.run("ost", "report")
    assert "✓ report" in printed and (copied.root / "report/index.html").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("select.fracton=0.1", "did you mean `fraction`"),
        ("select.fraction=1.5", "found 1.5"),
        ("score.method=fast", "transposed"),
        ("nonsense", "NAME=VALUE"),
    ],
)
def test_a_wrong_parameter_stops_the_run_before_any_work(copied, setting, said):
    before = (copied.root / "params.yaml").read_text()
    text = copied.run("ost", "curate", "--set", setting, ok=False)
    assert "error:" in text and said in text and "Traceback" not in text
    assert (copied.root / "params.yaml").read_text() == before
    assert "✓" not in text


def test_an_error_in_a_stage_is_told_without_a_traceback(copied):
    text = copied.run("ost", "curate", "--set", "data.anchors=nowhere.jsonl", ok=False)
    assert "error:" in text and "nowhere.jsonl" in text and "Traceback" not in text


def test_own_files_and_checkpoints_go_through_with_bad_records_set_apart(curated, tmp_path, prefect_home):
    settings = [value for value in TINY if not value.startswith("sft.steps")]
    own = [f"data.{name}={name}.jsonl" for name in ("pool", "anchors", "benchmark")]
    models = [f"models.{role}={role}-checkpoint" for role in ("target", "proxy")]
    assignments = [*settings, "sft.steps=2", "data.truth=null", *own, *models]
    shell = make_workspace(tmp_path / "workspace", prefect_home, assignments)
    for role in ("target", "proxy"):
        shutil.copytree(curated.root / f"models/{role}", shell.root / f"{role}-checkpoint")
    for name in ("pool", "anchors", "benchmark"):
        write_jsonl(curated.root / f"world/{name}.parquet", shell.root / f"{name}.jsonl")
    broken = [{"images": ["lost.png"], "messages": MESSAGES}, {"images": [], "messages": [MESSAGES[0]]}]
    with (shell.root / "pool.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(record) + "\n" for record in broken))
    printed = shell.run("ost", "curate")
    assert "world " not in printed.replace("data.world", "") or "✓ world" not in printed
    counts = read_json(shell.root / "metrics/ingest.json")["counts"]["pool"]
    assert (counts["read"], counts["kept"], counts["quarantined"]) == (202, 200, 2)
    assert pq.read_table(shell.root / "data/quarantine.parquet")["reason"].to_pylist() == ["missing-image", "malformed"]
    assert read_json(shell.root / "metrics/audit.json") is None
    ours, theirs = (read_samples(s.root / "data/pool.parquet") for s in (shell, curated))
    assert {sample.id for sample in ours} == {sample.id for sample in theirs}, "a form of storage changed the ids"


MESSAGES = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A digit."}]


def write_jsonl(source, target) -> None:
    """Samples as a user keeps them: one JSON object a line, images as files beside it."""
    lines = []
    for number, sample in enumerate(read_samples(source)):
        name = f"{target.stem}-{number}.png"
        (target.parent / name).write_bytes(sample.images[0])
        lines.append(json.dumps({"images": [name], "messages": sample.messages, "task": sample.task}))
    target.write_text("\n".join(lines) + "\n")
