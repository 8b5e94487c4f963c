"""The `ost` command, as a user types it."""

import json
import shutil
from pathlib import Path
from typing import get_args

import boto3
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import BaseModel
from specimens import copy_of, drawn
from tiny_workspace import ONE_TRAINING, ROOT, TINY, Shell, make_workspace
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli.files import ExportForm
from flows.cli.main import app, main
from flows.cli.score import _warmed_up, score_files
from flows.lock import claim
from ost.data import Dataset, write_samples
from ost.errors import ConfigError, WorkspaceError
from ost.export import FORMS
from ost.models import load_checkpoint
from ost.selection import kept_ids
from ost.settings import Data, Execution, Score, Select, Warmup
from ost.store import read_json, read_table
from ost.types import Progress, silent
from stack.servers import s3_server

pytestmark = pytest.mark.usefixtures("on_one_server")


@pytest.mark.parametrize("command", ["", *sorted(get_command(app).commands)])
def test_help_teaches(command):
    text = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert "Usage" in text and len(text) > 300


def test_the_forms_of_an_export_are_the_librarys():
    assert get_args(ExportForm) == FORMS


@pytest.mark.parametrize(
    ("command", "section", "own"), [("score", Score, 10), ("score", Execution, 3), ("select", Select, 6)]
)
def test_options_that_are_settings_have_the_settings_defaults(command, section, own):
    defaults = {one.name: one.default for one in get_command(app).commands[command].params}
    shared = {key: value for key, value in section() if key in defaults and not isinstance(value, BaseModel)}
    assert len(shared) == own and shared == {key: defaults[key] for key in shared}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("method", "fast", "transposed"), ("sketch", "-1", "'--sketch'"), ("toxic-q", "1.5", "'--toxic-q'")],
)
def test_options_that_are_settings_have_their_choices_and_bounds(option, value, said):
    files = ["pool.json", "--anchors", "anchors.json", "--proxy", "proxy", "--out", "scores.parquet"]
    done = CliRunner().invoke(app, ["score", *files, f"--{option}", value])
    assert done.exit_code == 2 and said in done.output, done.output


def test_score_and_select_work_on_files_alone(curated, tmp_path):
    scores, subset = tmp_path / "utility.parquet", tmp_path / "subset.parquet"
    steps = f"{curated.manifests()['score-lookahead']['metrics']['steps']:.0f}"
    files = ["world/pool.parquet", "--anchors", "world/anchors.parquet", "--proxy", "models/proxy-warm"]
    files += ["--steps", steps]
    said = curated.run("ost", "score", *files, "--out", str(scores))
    assert f"trained on the anchors for {steps} step(s) at a learning rate of 0.001" in said
    assert read_table(scores).equals(read_table(curated.root / "scores/lookahead.parquet"))
    curated.ost("select", str(scores), "--fraction", "0.2", "--clean-below", "0", "--out", str(subset))
    assert read_table(subset).equals(read_table(curated.root / "selections/lookahead-20.parquet"))
    turns = read_table(tmp_path / "utility-turns.parquet")
    assert turns.equals(read_table(curated.root / "scores/lookahead-turns.parquet"))
    curated.ost("select", str(scores), "--clean-below", "0", "--unit", "turn", "--out", str(subset))
    by_turn = read_table(subset)
    assert kept_ids(by_turn) == kept_ids(read_table(curated.root / "selections/lookahead-20.parquet"))
    assert by_turn["masked"].to_pylist() == [[]] * len(by_turn), "a sample of one turn is judged by its own rank"
    curated.ost("select", str(scores), "--strategy", "cover", "--out", str(subset))
    assert len(kept_ids(read_table(subset))) == 40
    gains, work = tmp_path / "gains.parquet", str(tmp_path / "utility.work")
    curated.ost("score", *files, "--visual-gain", "--work", work, "--out", str(gains))
    assert read_table(gains).drop_columns("visual_gain").equals(read_table(scores))
    assert read_table(gains)["visual_gain"].null_count == 0
    said = curated.ost("score", *files, "--layers", "middle", "--out", str(scores), ok=False)
    assert "the command line has 1 problem(s)" in said and "layers: String should match" in said
    assert "Traceback" not in said


class Dark:
    """A display that shows nothing."""

    def bar(self, name: str) -> Progress:
        return silent


@pytest.mark.parametrize(("option", "where"), [("", "training on the anchors"), ("warmup-", "warm-up")])
def test_rates_of_a_scoring_are_options_and_follow_from_the_proxys_size_without_them(option, where, monkeypatch):
    given = {}
    monkeypatch.setattr("flows.cli.score.score_files", lambda *args: given.update(warmup=args[5][0], score=args[6]))
    command = ["score", "pool.json", "--anchors", "anchors.json", "--proxy", "proxy", "--out", "scores.parquet"]

    def rates(*options: str) -> tuple[float | None, float | None]:
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
        return given["score"].lookahead.learning_rate, given["warmup"].learning_rate

    assert rates() == (None, None)
    assert rates(f"--{option}learning-rate", "3e-4") == ((None, 3e-4) if option else (3e-4, None))
    refused = CliRunner().invoke(app, [*command, f"--{option}learning-rate", "0"]).exception
    assert isinstance(refused, ConfigError) and f"the {where} has 1 problem(s):\n  learning_rate" in str(refused)


@pytest.fixture
def warmed(fresh, tmp_path):
    """Warms a proxy up as `ost score` does; its folder, and when that was made."""
    write_samples(tmp_path / "pool.parquet", drawn("pool", 8))
    pool = Dataset(tmp_path / "pool.parquet")

    def warm(steps: int = 1, rate: float | None = 1e-3) -> tuple[Path, int]:
        settings = Warmup(learning_rate=rate)
        folder = _warmed_up(str(tmp_path / "proxy"), pool, settings, steps, tmp_path / "work", Dark())
        return folder, folder.stat().st_mtime_ns

    fresh.save(tmp_path / "proxy")
    return warm


def test_a_warm_proxy_is_taken_over_until_its_weights_or_its_training_change(warmed, fresh, tmp_path):
    first = warmed()
    assert warmed() == first, "it was trained again"
    other = copy_of(fresh)
    other.model.lm_head.weight.data += 0.5
    other.save(tmp_path / "proxy")
    second = warmed()
    assert second[0] != first[0], "weights that were replaced under the same path go unnoticed"
    found = load_checkpoint(second[0]).model.lm_head.weight
    assert torch.allclose(found, other.model.lm_head.weight, atol=0.1)
    assert warmed(2)[0] != second[0]
    assert len(list((tmp_path / "work").glob("proxy-warm*"))) == 1, "one that is of no use stays"


def test_a_proxy_is_warmed_up_at_the_usual_rate_of_its_size_which_is_told(warmed, capsys):
    """1e-3, for one of less than 10 million weights."""
    named, usual = (load_checkpoint(warmed(2, rate)[0]).model.state_dict() for rate in (1e-3, None))
    assert all(torch.equal(weight, usual[name]) for name, weight in named.items())
    assert capsys.readouterr().out.count("warmed up for 2 step(s) at a learning rate of 0.001") == 2


def test_two_runs_do_not_share_a_work_folder(tmp_path):
    models, warmup = ("proxy", None), (Warmup(), 0)
    rest = (Data(), warmup, Score(), Execution(), 1, 1)
    with claim(tmp_path / "work/.ost/lock"), pytest.raises(WorkspaceError, match=r"is at work in .*work: wait until"):
        score_files(("pool", "anchors"), models, tmp_path / "out.parquet", tmp_path / "work", *rest)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["select", "absent.parquet", "--out", "subset.parquet"], "absent.parquet is no score table"),
        (["select", "notes.txt", "--out", "subset.parquet"], "make one with `ost score`"),
        (["curate", "--set", "select.purity=0.9"], "no params.yaml in"),
        (["curate"], "run in a workspace, or name one with --workspace"),
        (["export", "absent.parquet", "--form", "trl", "--out", "out"], "no selection at absent.parquet"),
        (["export", "notes.txt", "--form", "trl", "--out", "out"], "notes.txt is no Parquet file"),
        (["check", "notes.txt", "--column", "messages"], "--column takes OURS=THEIRS"),
    ],
)
def test_what_a_user_can_mend_is_told_without_a_traceback(command, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("a note")
    monkeypatch.setattr("sys.argv", ["ost", *command])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    assert end.value.code == 1 and shown.err.startswith("error:") and said in shown.err, shown


def test_lineage_walks_from_a_model_to_the_commit(curated):
    text = curated.ost("lineage", "ost-target@lookahead-20-B")
    commit = curated.run("git", "rev-parse", "HEAD").strip()
    for artifact in ("selections/lookahead-20.parquet", "scores/lookahead.parquet", "models/proxy-warm", "data/pool"):
        assert artifact in text
    lines = [line for line in text.splitlines() if "world/pool.parquet" in line]
    assert lines and all(commit[:10] in line for line in lines), text
    assert "not made by a recorded run" not in text


def test_lineage_walks_from_a_sample_to_the_models_trained_on_it(curated):
    subsets = ("lookahead-20", "random-20", "lookahead-50")
    kept = {subset: set(kept_ids(read_table(curated.root / f"selections/{subset}.parquet"))) for subset in subsets}
    sample = min(kept["lookahead-20"] - kept["random-20"])
    text = curated.ost("lineage", sample)
    rows = {key: next(line for line in text.splitlines() if f" {key} " in line.replace("│", " ")) for key in kept}
    assert "none" in rows["random-20"] and "none" not in rows["lookahead-20"]
    for run in ("full-B", "lookahead-20-A", "lookahead-20-B", "lookahead-50-A", "lookahead-50-B"):
        assert (f"({run}, accuracy" in text) == (sample in kept.get(run[:-2], {sample})), run
    assert "(random-" not in text


def test_an_unknown_name_has_no_lineage(curated):
    assert "error:" in curated.ost("lineage", "nobody", ok=False)
    assert "no version 99" in curated.ost("lineage", "ost-target/99", ok=False)


def test_report_is_made_again_when_it_is_lost(copied):
    (copied.root / "report/index.html").unlink()
    printed = copied.ost("report")
    assert "✓ report" in printed and (copied.root / "report/index.html").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("select.purty=0.9", "did you mean `purity`"),
        ("select.purity=1.5", "found 1.5"),
        ("select.fraction=0.1", "it is a percentage in curate.subsets now, such as lookahead-20"),
        ("score.method=fast", "transposed"),
        ("nonsense", "NAME=VALUE"),
    ],
)
def test_a_wrong_parameter_stops_the_run_before_any_work(tmp_path, setting, said):
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    before = (tmp_path / "params.yaml").read_text()
    text = Shell(tmp_path).ost("curate", "--set", setting, ok=False)
    assert "error:" in text and said in text and "Traceback" not in text
    assert (tmp_path / "params.yaml").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"] and "✓" not in text


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
    settings = [value for value in [*TINY, *ONE_TRAINING] if not value.startswith("sft.steps")]
    own = ["data.pool=pool.jsonl", "data.benchmark=benchmark.jsonl", "data.anchors=s3://samples/anchors.parquet"]
    models = [f"models.{role}={role}-checkpoint" for role in ("target", "proxy")]
    assignments = [*settings, "sft.steps=2", "data.truth=null", *own, *models]
    shell = make_workspace(tmp_path / "workspace", prefect_home, assignments)
    shell.environment |= s3.environment
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


MESSAGES = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A digit."}]


def write_jsonl(source, target) -> None:
    """Samples as a user keeps them: one JSON object a line, images as files beside it."""
    lines = []
    for number, sample in enumerate(Dataset(source)):
        name = f"{target.stem}-{number}.png"
        (target.parent / name).write_bytes(sample.images[0])
        lines.append(json.dumps({"images": [name], "messages": sample.messages, "task": sample.task}))
    target.write_text("\n".join(lines) + "\n")
