"""The `ost` command, as a user types it."""

import json
import shutil

import boto3
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_workspace import TINY, make_workspace
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from ost.data import Dataset
from ost.selection import kept_ids
from ost.store import read_json, read_table
from stack.servers import s3_server


@pytest.mark.parametrize("command", ["", *sorted(get_command(app).commands)])
def test_help_teaches(command):
    text = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert "Usage" in text and len(text) > 300


def test_score_and_select_work_on_files_alone(curated, tmp_path):
    scores, subset = tmp_path / "utility.parquet", tmp_path / "subset.parquet"
    steps = f"{curated.manifests()['score']['metrics']['steps']:.0f}"
    files = ["world/pool.parquet", "--anchors", "world/anchors.parquet", "--proxy", "models/proxy-warm"]
    files += ["--steps", steps]
    curated.run("ost", "score", *files, "--out", str(scores))
    assert read_table(scores).equals(read_table(curated.root / "scores/utility.parquet"))
    curated.run("ost", "select", str(scores), "--fraction", "0.2", "--clean-below", "0", "--out", str(subset))
    assert read_table(subset).equals(read_table(curated.root / "selections/ost.parquet"))
    curated.run("ost", "select", str(scores), "--strategy", "cover", "--out", str(subset))
    assert len(kept_ids(read_table(subset))) == 40
    said = curated.run("ost", "score", *files, "--layers", "middle", "--out", str(scores), ok=False)
    assert "layers: String should match" in said and "Traceback" not in said


def test_lineage_walks_from_a_model_to_the_commit(curated):
    text = curated.run("ost", "lineage", "ost-target@ost-B")
    commit = curated.run("git", "rev-parse", "HEAD").strip()
    for artifact in ("selections/ost.parquet", "scores/utility.parquet", "models/proxy-warm", "data/pool"):
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


@pytest.fixture
def s3(tmp_path):
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        yield server


def test_own_files_objects_and_checkpoints_go_through_with_bad_records_set_apart(curated, tmp_path, prefect_home, s3):
    """The pool as JSONL with image files, two records of it bad; the anchors in object storage; no known truth."""
    settings = [value for value in TINY if not value.startswith("sft.steps")]
    own = ["data.pool=pool.jsonl", "data.benchmark=benchmark.jsonl", "data.anchors=s3://samples/anchors.parquet"]
    models = [f"models.{role}={role}-checkpoint" for role in ("target", "proxy")]
    assignments = [*settings, "sft.steps=2", "data.truth=null", *own, *models]
    shell = make_workspace(tmp_path / "workspace", prefect_home, assignments)
    shell.environment |= s3.environment
    without_stage_world(shell.root / "dvc.yaml")
    for role in ("target", "proxy"):
        shutil.copytree(curated.root / f"models/{role}", shell.root / f"{role}-checkpoint")
    for name in ("pool", "benchmark"):
        write_jsonl(curated.root / f"world/{name}.parquet", shell.root / f"{name}.jsonl")
    broken = [{"images": ["lost.png"], "messages": MESSAGES}, {"images": [], "messages": [MESSAGES[0]]}]
    with (shell.root / "pool.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(record) + "\n" for record in broken))
    put_object(s3, "anchors.parquet", (curated.root / "world/anchors.parquet").read_bytes())

    printed = shell.run("ost", "curate")
    assert "world" not in shell.manifests()
    assert s3.secret not in printed
    counts = read_json(shell.root / "metrics/ingest.json")["counts"]["pool"]
    assert (counts["read"], counts["kept"], counts["quarantined"]) == (202, 200, 2)
    assert pq.read_table(shell.root / "data/quarantine.parquet")["reason"].to_pylist() == ["missing-image", "malformed"]
    assert read_json(shell.root / "metrics/audit.json") is None
    assert (shell.root / "report/index.html").stat().st_size > 1000
    for name in ("pool", "anchors", "benchmark"):
        ours, theirs = (Dataset(one.root / f"data/{name}") for one in (shell, curated))
        assert {sample.id for sample in ours} == {sample.id for sample in theirs}, f"{name}: another form, other ids"

    assert "up to date" in shell.run("dvc", "status"), "DVC cannot follow an object under s3://"
    put_object(s3, "anchors.parquet", (curated.root / "world/benchmark.parquet").read_bytes())
    assert "s3://samples/anchors.parquet" in shell.run("dvc", "status"), "a changed object would not be read again"


def test_a_checkpoint_that_is_not_there_is_told_without_a_traceback(copied):
    text = copied.run("ost", "curate", "--set", "models.proxy=./no-such-checkpoint", ok=False)
    assert "error: no model at './no-such-checkpoint': give a folder" in text
    assert "Traceback" not in text
    assert "✓" not in text, "work went on behind a stage that failed"


def put_object(s3, key: str, body: bytes) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.key,
        aws_secret_access_key=s3.secret,
        region_name="us-east-1",
    )
    if not client.list_buckets()["Buckets"]:
        client.create_bucket(Bucket="samples")
    client.put_object(Bucket="samples", Key=key, Body=body)


def without_stage_world(path) -> None:
    """What dvc.yaml tells a user with own data to do."""
    pipeline = yaml.safe_load(path.read_text())
    del pipeline["stages"]["world"]
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))


MESSAGES = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A digit."}]


def write_jsonl(source, target) -> None:
    """Samples as a user keeps them: one JSON object a line, images as files beside it."""
    lines = []
    for number, sample in enumerate(Dataset(source)):
        name = f"{target.stem}-{number}.png"
        (target.parent / name).write_bytes(sample.images[0])
        lines.append(json.dumps({"images": [name], "messages": sample.messages, "task": sample.task}))
    target.write_text("\n".join(lines) + "\n")
