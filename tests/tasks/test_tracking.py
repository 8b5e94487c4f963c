"""The MLflow record, on a real store, and once on a real server."""

import json
import os

import pytest

from ost.errors import WorkspaceError
from stack.processes import free_ports
from stack.servers import mlflow_server
from tasks.tracking import Tracker, opening, path_of_tag, sweep_downloads, tag_of, tracking_uri

GIT = {"commit": "c0ffee" * 6 + "c0ff", "dirty": True}


@pytest.fixture
def parent(tracker) -> str:
    return tracker.open(GIT, "prefect", {"ost.flow_run": "flow-1"})


def test_a_child_run_holds_all_that_the_manifest_says(tracker, parent, made):
    manifest = made(
        "score-lookahead",
        {"data/pool": "a" * 32},
        {"scores/lookahead.parquet": b"scores"},
        metrics={"toxic_share": 0.25},
        warnings=["one", "two"],
        datasets={"pool": "b" * 32},
        curves={"training_loss": [[step, 1 / step] for step in range(1, 2501)]},
    )
    run = tracker.client.get_run(tracker.record(manifest, parent, "flow-1"))
    curve = tracker.client.get_metric_history(run.info.run_id, "training_loss")
    assert [(point.step, point.value) for point in curve] == [(step, 1 / step) for step in range(1, 2501)]
    tags, data = run.data.tags, run.data
    assert run.info.status == "FINISHED"
    assert tags["mlflow.parentRunId"] == parent
    assert tags["mlflow.source.git.commit"] == manifest["git"]["commit"]
    assert (tags["ost.stage"], tags["ost.kind"]) == ("score-lookahead", "score")
    assert (tags["ost.flow_run"], tags["ost.git_dirty"]) == ("flow-1", "false")
    assert tags["dvc.in.data/pool"] == "a" * 32
    assert tags["dvc.out.scores/lookahead.parquet"] == manifest["outputs"]["scores/lookahead.parquet"]
    assert tags["ost.warnings"] == "one\ntwo"
    assert data.params == {"seed": "0", "select.purity": "0.85"}
    assert data.metrics == {"toxic_share": 0.25, "seconds": 1.5, "flops": 2e9, "training_loss": 1 / 2500}
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("pool", "b" * 32), "not our own content digest"


def test_artifacts_are_uploaded_but_samples_stay_with_dvc(tracker, parent, made):
    outputs = {
        "metrics/score-lookahead.json": b"{}",
        "models/sft/lookahead-20-B/weights": b"w",
        "data/pool": b"d",
        "world/x": b"w",
        "models/proxy-warm/weights": b"p",
    }
    run = tracker.record(made("select-lookahead-20", {}, outputs), parent)
    for path, content in list(outputs.items())[:2]:
        with tracker.artifact(run, path) as file:
            assert file.read_bytes() == content
        assert not file.exists() and not list(tracker.root.glob(".ost/download*")), "a download is left behind"
    assert [entry.path for entry in tracker.client.list_artifacts(run, "models")] == ["models/sft"], "bases are DVC's"
    top = {entry.path for entry in tracker.client.list_artifacts(run)}
    assert top == {"metrics", "models"}, "gigabytes of samples would be copied into MLflow"


def test_every_new_model_becomes_a_version_and_the_same_bytes_do_not(tracker, parent, made):
    first = tracker.record(made("sft-lookahead-20-B", {}, {"models/sft/lookahead-20-B": b"weights"}), parent)
    again = tracker.record(made("sft-lookahead-20-B", {}, {"models/sft/lookahead-20-B": b"weights"}), parent)
    (version,) = tracker.model_versions()
    assert (version.run_id, version.tags["ost.run"]) == (first, "lookahead-20-B"), (
        f"run {again} registered old bytes as new"
    )
    tracker.record(made("sft-lookahead-20-B", {}, {"models/sft/lookahead-20-B": b"other weights"}), parent)
    tracker.record(made("sft-full-B", {}, {"models/sft/full-B": b"more weights"}), parent)
    assert [version.tags["ost.run"] for version in tracker.model_versions()] == [
        "lookahead-20-B",
        "lookahead-20-B",
        "full-B",
    ]
    newest = tracker.client.get_model_version_by_alias(tracker.model_name, "lookahead-20-B")
    assert str(newest.version) == "2", "the alias stayed on the old model"


def test_of_two_trainings_with_the_same_weights_each_has_a_version(tracker, parent, made):
    for _ in range(2):
        for key in ("random-20-B", "lookahead-20-B"):
            sft = made(f"sft-{key}", {}, {f"models/sft/{key}": b"weights"}, labels={"subset": key.removesuffix("-B")})
            run = tracker.client.get_run(tracker.record(sft, parent))
            assert run.data.params["subset"] == key.removesuffix("-B")
    assert [version.tags["ost.run"] for version in tracker.model_versions()] == ["random-20-B", "lookahead-20-B"]
    assert [str(tracker.aliased(key).version) for key in ("random-20-B", "lookahead-20-B")] == ["1", "2"]


def test_the_accuracy_goes_to_the_model_that_was_evaluated(tracker, parent, made):
    models = {run: made(f"sft-{run}", {}, {f"models/sft/{run}": run.encode()}) for run in ("lookahead-20-B", "full-B")}
    for manifest in models.values():
        tracker.record(manifest, parent)
    inputs = models["full-B"]["outputs"]
    tracker.record(
        made("evaluate-full-B", inputs, {"evaluations/full-B.json": b"{}"}, metrics={"accuracy": 0.5}), parent
    )
    found = {version.tags["ost.run"]: version.tags.get("ost.accuracy") for version in tracker.model_versions()}
    assert found == {"lookahead-20-B": None, "full-B": "0.5000"}


def test_stages_of_one_repro_share_a_parent_until_it_is_closed(tracker):
    def join(digest: str, git: dict = GIT) -> str:
        return tracker.joined(opening(git, "dvc", params=digest))

    first = join("digest-1")
    assert join("digest-1") == first, "each stage of one `dvc repro` would get its own parent"
    assert join("digest-2") != first, "runs with other parameters were put under one parent"
    assert join("digest-1", GIT | {"commit": "another"}) != first
    tracker.close(first)
    assert join("digest-1") != first, "a finished parent was taken up again"


def test_a_run_is_opened_when_it_is_joined_first_and_found_again_by_another_process(tracker, tmp_path, tracked_as):
    above = opening(GIT, "prefect", name="compare mine")
    told = json.loads(json.dumps(opening(GIT, "prefect", {"ost.flow_run": "flow"}, "seed 3", above)))
    run = tracker.client.get_run(tracker.joined(told))
    assert run.info.start_time == told["started"] and run.data.tags["ost.flow_run"] == "flow"
    assert run.data.tags["mlflow.parentRunId"] == tracker.joined(above)
    name = tracker.client.get_experiment(tracker.experiment).name
    assert Tracker(tmp_path, tracked_as(tracker.client.tracking_uri, name)).joined(told) == run.info.run_id
    assert tracker.joined(opening(GIT, "prefect")) != tracker.joined(opening(GIT, "prefect")), "two flows are one run"


def test_a_record_asks_no_server_before_it_has_to(tmp_path, tracked_as, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    assert not Tracker(tmp_path, tracked_as(f"http://127.0.0.1:{port}", "nobody")).answers()


def test_downloads_that_a_kill_has_left_are_swept(tmp_path):
    old, new = (tmp_path / f".ost/download-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    sweep_downloads(tmp_path)
    assert not old.exists() and new.exists(), "somebody may be looking at it"


def test_a_failed_flow_is_recorded_as_failed_with_what_it_reused(tracker, parent):
    tracker.note_reuse(parent, ["world", "base-target"])
    tracker.close(parent, succeeded=False)
    run = tracker.client.get_run(parent)
    assert (run.info.status, run.data.tags["ost.reused"]) == ("FAILED", "world, base-target")


def test_more_runs_than_one_page_are_all_found(tracker, parent, made, monkeypatch):
    for _ in range(3):
        tracker.record(made("score-lookahead", {}, {"scores/x": b"x"}), parent)
    real = tracker.client.search_runs
    monkeypatch.setattr(tracker.client, "search_runs", lambda *args, **options: real(*args, max_results=1, **options))
    assert len(tracker.runs_with("ost.stage", "score-lookahead")) == 3, "lineage would miss the older runs"


def test_a_relative_sqlite_store_lies_in_the_workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path, "sqlite:///mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri(tmp_path, "sqlite:////srv/mlflow.db") == "sqlite:////srv/mlflow.db"
    assert tracking_uri(tmp_path, "https://mlflow.example.org") == "https://mlflow.example.org"


def test_the_environments_tracking_store_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert tracking_uri(tmp_path, "sqlite:///mlflow.db") == "https://mlflow.example.org"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///tmp/mlruns")
    with pytest.raises(WorkspaceError, match=r"sqlite:///mlflow\.db or a server"):
        tracking_uri(tmp_path, "sqlite:///mlflow.db")


@pytest.mark.parametrize("uri", ["file:mlruns", "file:///srv/mlruns", "mlruns", "./mlruns"])
def test_a_store_of_plain_files_is_refused_with_a_remedy(tmp_path, monkeypatch, uri):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(WorkspaceError, match=r"use sqlite:///mlflow\.db or a server"):
        tracking_uri(tmp_path, uri)


def test_the_record_is_the_same_on_a_server(tmp_path, made, tracked_as, monkeypatch):
    """Over HTTP, with artifacts that the server proxies: none may land in the client's own folders."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as address:
        tracker = Tracker(tmp_path, tracked_as(address, "served"))
        parent = tracker.open(GIT, "prefect")
        sft = made(
            "sft-lookahead-20-B",
            {"data/pool": "a" * 32},
            {"models/sft/lookahead-20-B/weights": b"w"},
            datasets={"x": "y"},
        )
        run = tracker.record(sft, parent, "flow-1")
        report = made("report", {}, {"metrics/arms.json": json.dumps([1]).encode()})
        with tracker.artifact(tracker.record(report, parent), "metrics/arms.json") as shown:
            assert json.loads(shown.read_text()) == [1], "an artifact does not survive the way through the server"
        assert [found.info.run_id for found in tracker.runs_with("dvc.in.data/pool", "a" * 32)] == [run]
        assert [version.run_id for version in tracker.model_versions(run)] == [run]
        tracker.close(parent)
        assert tracker.client.get_run(parent).info.status == "FINISHED"
    assert not (tmp_path / "mlruns").exists(), "artifacts were kept here, where nobody else finds them"
    assert list((tmp_path / "server/artifacts").rglob("weights")), "the server holds no artifact"


@pytest.mark.parametrize(
    "path",
    [
        "data/pool",
        "s3://bucket/pool.json",
        "s3://bucket",
        "/home/me/My images (1)",
        "../beside",
        "bilder/grün+rot#2",
        "x" * 400,
    ],
)
def test_whatever_a_stage_has_read_can_be_recorded_and_found_again(tracker, made, path):
    """An address in object storage, or a folder of a user's own, is as good a name as any."""
    run = tracker.record(made("ingest", {path: "a" * 32}, {"data/pool": b"pool"}), tracker.open(GIT, "prefect"))
    assert [found.info.run_id for found in tracker.runs_with(tag_of("in", path), "a" * 32)] == [run]
    if "://" in path:
        assert path_of_tag(tag_of("in", path)) == path
