"""A record that its server cannot take: a real MLflow server that goes down, and comes back."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow.exceptions import MlflowException

from stack.processes import free_ports
from stack.servers import mlflow_server
from tasks.record.outbox import FOLDER, Outbox
from tasks.settings import Params, Tracking
from tasks.tracking import Tracker

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
