"""A record that its server cannot take: a real MLflow server that goes down, and comes back."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from botocore.exceptions import EndpointConnectionError
from mlflow.exceptions import MlflowException, RestException

from ost.store import read_json
from stack.processes import free_ports
from stack.servers import mlflow_server
from tasks.record.outbox import FOLDER, LONGEST, REFUSED, Outbox
from tasks.settings import Params, Tracking
from tasks.tracking import Tracker, opening

GIT = {"commit": "c0ffee" * 6 + "c0ff", "dirty": False}
SELECTION = "selections/lookahead-20.parquet"


@pytest.fixture
def impatient(monkeypatch):
    """MLflow's client gives up at once; by default it tries for minutes."""
    for name, value in {"MAX_RETRIES": "0", "TIMEOUT": "10"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_what_a_server_that_is_down_cannot_take_is_delivered_later(tmp_path, made, impatient):
    (port,) = free_ports(1)
    server = tmp_path / "server"
    server.mkdir()
    params = Params(tracking=Tracking(uri=f"http://127.0.0.1:{port}"))
    with mlflow_server(server, port):
        tracker = Tracker(tmp_path, params)
        outbox, parent = Outbox(tmp_path, tracker), tracker.open(GIT, "prefect")
        outbox.record(made("score-lookahead", {}, {"scores/lookahead.parquet": b"scores"}), parent, "flow")
        assert not list((tmp_path / FOLDER).iterdir()), "what was delivered is kept"
    outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent, "flow")
    outbox.record(made("sft-lookahead-20-B", {}, {"models/sft/lookahead-20-B": b"weights"}), parent, "flow")
    outbox.close(parent, ["world"], succeeded=True)
    assert outbox.deliver() == 3
    with mlflow_server(server, port):
        again = Tracker(tmp_path, params)
        assert Outbox(tmp_path, again).deliver() == 0
        assert not list((tmp_path / FOLDER).iterdir())
        (run,) = again.runs_with("ost.stage", "select-lookahead-20")
        assert run.info.status == "FINISHED"
        with again.artifact(run.info.run_id, SELECTION) as file:
            assert file.read_bytes() == b"subset"
        assert [version.tags["ost.run"] for version in again.model_versions()] == ["lookahead-20-B"]
        closed = again.client.get_run(parent)
        assert (closed.info.status, closed.data.tags["ost.reused"]) == ("FINISHED", "world")


def test_stages_that_end_together_are_each_recorded_once(tmp_path, tracker, made):
    outbox, parent = Outbox(tmp_path, tracker), tracker.open(GIT, "prefect")
    manifests = [
        made(f"evaluate-{n}", {}, {f"evaluations/{n}.json": b"{}"}, metrics={"accuracy": 1.0}) for n in "abcdef"
    ]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda manifest: outbox.record(manifest, parent), manifests))
    assert outbox.deliver() == 0
    assert [len(tracker.runs_with("ost.stage", manifest["stage"])) for manifest in manifests] == [1] * 6


def test_a_transfer_that_broke_off_goes_on_in_the_same_run(tmp_path, tracker, made, monkeypatch):
    outbox, parent, real = Outbox(tmp_path, tracker), tracker.open(GIT, "prefect"), tracker._upload

    def breaks(*arguments):
        raise MlflowException("gone")

    monkeypatch.setattr(tracker, "_upload", breaks)
    outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent)
    assert outbox.deliver() == 1
    monkeypatch.setattr(tracker, "_upload", real)
    assert outbox.deliver() == 0
    (run,) = tracker.runs_with("ost.stage", "select-lookahead-20")
    assert run.info.status == "FINISHED", "the half record stands beside the whole one"


def test_a_server_that_is_down_from_the_start_gets_the_whole_run_later(tmp_path, made, impatient):
    """The run itself, too, with the run that it hangs under and the time that it began at."""
    (port,) = free_ports(1)
    server = tmp_path / "server"
    server.mkdir()
    params, told = Params(tracking=Tracking(uri=f"http://127.0.0.1:{port}")), []
    outbox = Outbox(tmp_path, Tracker(tmp_path, params), told.append)
    parent = opening(GIT, "prefect", name="seed 3", parent=opening(GIT, "prefect", name="compare mine"))
    assert outbox.deliver() == 0
    assert outbox.open(parent) == 1
    assert outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent) == 2
    assert outbox.close(parent, ["world"], succeeded=True) == 3
    outbox.tell_what_is_left()
    assert told == [
        f"MLflow has not taken 3 records (it does not answer): they are kept in {FOLDER}, and the next run here "
        "delivers them"
    ]
    with mlflow_server(server, port):
        again = Tracker(tmp_path, params)
        assert Outbox(tmp_path, again, told.append).deliver() == 0
        (run,) = again.runs_with("ost.stage", "select-lookahead-20")
        of = again.client.get_run(run.data.tags["mlflow.parentRunId"])
        assert (of.info.status, of.info.start_time) == ("FINISHED", parent["started"])
        above = again.client.get_run(of.data.tags["mlflow.parentRunId"])
        assert (above.info.status, above.info.run_name) == ("RUNNING", "compare mine (prefect)")


def refused_by_server() -> RestException:
    return RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "a name too long"})


def http_error(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError("said no", response=answer)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("gone"),
        RestException({"error_code": "PERMISSION_DENIED"}),
        requests.ConnectionError("reset"),
        http_error(503),
        EndpointConnectionError(endpoint_url="http://s3"),
        OSError(28, "No space left on device"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_an_outage_raises_the_stage_is_not_ended_and_the_order_kept(
    tmp_path, tracker, made, monkeypatch, error
):
    told = []
    outbox, parent = Outbox(tmp_path, tracker, told.append), tracker.open(GIT, "prefect")
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "_upload", raising(error))
        assert outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent) == 1
        assert outbox.record(made("score-lookahead", {}, {"scores/lookahead.parquet": b"scores"}), parent) == 2
        assert type(error).__name__ in outbox.trouble and not told
    assert outbox.deliver() == 0
    assert not (tmp_path / FOLDER / REFUSED).exists() and outbox.trouble == ""


@pytest.mark.parametrize("error", [refused_by_server(), http_error(413)], ids=lambda error: type(error).__name__)
def test_what_the_server_refuses_is_laid_aside_and_the_rest_goes_on(tmp_path, tracker, made, monkeypatch, error):
    told = []
    outbox, parent = Outbox(tmp_path, tracker, told.append), tracker.open(GIT, "prefect")
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "_upload", raising(error))
        assert outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent) == 0
    assert outbox.record(made("score-lookahead", {}, {"scores/lookahead.parquet": b"scores"}), parent) == 0
    (line,) = told
    (file,) = (tmp_path / FOLDER / REFUSED).iterdir()
    assert file.name in line and str(error) in line and str(error) in read_json(file)["why"]
    assert tracker.runs_with("ost.stage", "score-lookahead")[0].info.status == "FINISHED"
    assert tracker.runs_with("ost.stage", "select-lookahead-20")[0].info.status == "FAILED", "begun, and never ended"
    file.replace(tmp_path / FOLDER / file.name)  # as a person would who has mended what was wrong
    assert outbox.deliver() == 0


def test_what_dvc_commits_is_delivered_afterwards_and_in_order(tmp_path, tracker, made):
    """DVC takes a file away for a moment while it commits it, and other stages end meanwhile."""
    told = []
    outbox, parent = Outbox(tmp_path, tracker, told.append), tracker.open(GIT, "prefect")
    with outbox.holding(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent):
        (tmp_path / SELECTION).rename(tmp_path / "taken")
        assert outbox.record(made("select-random-20", {}, {"selections/random-20.parquet": b"subset"}), parent) == 2
        (tmp_path / "taken").rename(tmp_path / SELECTION)
    assert outbox.deliver() == 0 and not told
    runs = [tracker.runs_with("ost.stage", f"select-{name}-20")[0].info for name in ("lookahead", "random")]
    assert runs[0].start_time <= runs[1].start_time


@pytest.mark.parametrize("spoil", ["gone", "another", "half"])
def test_an_entry_whose_files_are_no_longer_its_own_is_laid_aside(tmp_path, tracker, made, monkeypatch, spoil):
    told = []
    outbox, parent = Outbox(tmp_path, tracker, told.append), tracker.open(GIT, "prefect")
    with outbox.holding(made("sft-lookahead-20-B", {}, {"models/sft/lookahead-20-B": b"weights"}), parent):
        pass
    if spoil == "gone":
        (tmp_path / "models/sft/lookahead-20-B").unlink()
    elif spoil == "another":
        (tmp_path / "models/sft/lookahead-20-B").write_bytes(b"next week's weights")
    else:
        next((tmp_path / FOLDER).glob("*.json")).write_text('{"manifest": {')
    assert outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent) == 0
    assert len(told) == 1 and tracker.model_versions() == [], "weights were registered under another's digest"
    assert tracker.runs_with("ost.stage", "select-lookahead-20")
    assert outbox.deliver() == 0 and len(told) == 1, "it is told each time"


def test_an_entry_that_fails_for_a_day_while_the_server_answers_is_laid_aside(tmp_path, tracker, made, monkeypatch):
    outbox, parent = Outbox(tmp_path, tracker), tracker.open(GIT, "prefect")
    monkeypatch.setattr(tracker, "_upload", raising(MlflowException("a fault of the server's own")))
    assert outbox.record(made("select-lookahead-20", {}, {SELECTION: b"subset"}), parent) == 1
    (file,) = (tmp_path / FOLDER).glob("*.json")
    file.rename(file.with_name(f"{time.time_ns() - int((LONGEST + 60) * 1e9):020}.json"))
    assert outbox.deliver() == 0 and len(list((tmp_path / FOLDER / REFUSED).iterdir())) == 1


def test_the_client_is_impatient_for_as_long_as_it_delivers_and_no_longer(tmp_path, tracker, monkeypatch):
    name, seen = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", []
    outbox, parent = Outbox(tmp_path, tracker), tracker.open(GIT, "prefect")
    monkeypatch.setattr(tracker, "close", lambda *_: seen.append(os.environ[name]))
    monkeypatch.delenv(name, raising=False)
    outbox.close(parent, [], True)
    assert name not in os.environ
    monkeypatch.setenv(name, "5")
    outbox.close(parent, [], True)
    assert seen == ["2", "5"], "a person's own setting was overruled"


def raising(error: Exception):
    def fail(*_):
        raise error

    return fail
