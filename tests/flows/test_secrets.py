"""Credentials come from the environment, and go nowhere else: into no file of a workspace, and into nothing printed."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_workspace import TINY, Shell, make_workspace

from ost.data import write_samples
from ost.worlds import handmath
from stack import servers
from stack.servers import S3, s3_server, write_secret

pytestmark = pytest.mark.usefixtures("on_one_server")

SECRETS = {
    name: f"canary-{name.lower().replace('_', '-')}"
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "OPENAI_API_KEY",
        "HF_TOKEN",
    )
}
"""Variable → a value that stands nowhere else."""


class _Judge(BaseHTTPRequestHandler):
    """Says yes to whoever has the key; what it refuses it quotes, as some servers do."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.server.keys.append(key)
        refused = len(self.server.keys) % 20 == 0
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        text = json.dumps({"error": {"message": f"no answer to {key}"}} if refused else body).encode()
        self.send_response(422 if refused else 200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def judge() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Judge) as server:
        server.keys = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Iterator[S3]:
    """An S3 server that knows the secret key, with the anchors."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder, secret=SECRETS["AWS_SECRET_ACCESS_KEY"]) as server:
        problems = handmath.draw("anchors", 20, 0, handmath.TASKS)
        write_samples(folder / "anchors.parquet", map(handmath.to_sample, problems))
        server.client().create_bucket(Bucket="ost")
        server.client().upload_file(str(folder / "anchors.parquet"), "ost", "anchors.parquet")
        yield server


@pytest.fixture(scope="module")
def ran(judge, storage, tmp_path_factory, prefect_home) -> tuple[Shell, str]:
    """A workspace that was curated with all of the credentials, which it needed, and what was printed."""
    assignments = [
        *TINY,
        "data.anchors=s3://ost/anchors.parquet",
        f"judge.server=http://127.0.0.1:{judge.server_port}/v1",
        "models.judge=m",
        "judge.mode=grade",
        "curate.subsets=[judge, lookahead-20]",
        "curate.protocols=[B]",
    ]
    shell = make_workspace(tmp_path_factory.mktemp("secrets") / "workspace", prefect_home, assignments)
    shell.environment |= storage.environment | SECRETS
    return shell, shell.run("ost", "curate")


def holding(folder: Path, secrets: dict[str, str]) -> list[str]:
    """Files that hold one of the secrets; there are files to look at."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert files
    return [f"{file}: {name}" for file in files for name, own in secrets.items() if own.encode() in file.read_bytes()]


def test_credentials_are_used_and_left_nowhere(ran, judge, prefect_home):
    shell, printed = ran
    assert set(judge.keys) == {SECRETS["OPENAI_API_KEY"]} and (shell.root / "data/anchors").is_dir()
    for name in ("dvc.lock", "mlflow.db", "report/index.html", "data/manifest.json", ".ost", ".dvc/tmp"):
        assert (shell.root / name).exists(), "there is less to look at than was thought"
    assert holding(shell.root, SECRETS) == []
    assert holding(prefect_home, SECRETS) == [], "Prefect keeps parameters and logs"
    assert not [name for name, own in SECRETS.items() if own in printed]


def test_an_address_with_a_password_is_left_nowhere(ran, prefect_home):
    """MLflow's address may hold one, in the environment alone; here nobody answers at it."""
    shell, _ = ran
    password = {"password": "canary-mlflow-address"}
    elsewhere = {
        "MLFLOW_TRACKING_URI": f"http://me:{password['password']}@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    (shell.root / "report/index.html").unlink()  # so that there is something to record
    printed = Shell(shell.root, shell.environment | elsewhere).run("ost", "curate")
    assert "MLflow has not taken" in printed and "127.0.0.1:9" in printed
    assert password["password"] not in printed
    assert holding(shell.root, password) == [] and holding(prefect_home, password) == []


def test_a_secret_file_that_others_could_read_is_its_owners_alone(tmp_path):
    file = tmp_path / "secret"
    file.write_text("of an earlier build")
    file.chmod(0o644)
    write_secret(file, "secret")
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == "secret"


def test_the_stores_password_stands_in_no_list_of_processes(tmp_path, monkeypatch):
    """A command's arguments can be read by everybody on the machine, its environment by its owner."""
    started = []

    class Stopped(Exception):
        pass

    def running(command, *_, env, **__):
        started.append((list(map(str, command)), env))
        raise Stopped

    monkeypatch.setattr(servers, "running", running)
    store = "postgresql+psycopg2://ost:canary@127.0.0.1:1/mlflow"
    with pytest.raises(Stopped), servers.mlflow_server(tmp_path, 1, store):
        pass
    ((command, environment),) = started
    assert "canary" not in " ".join(command) and environment["MLFLOW_BACKEND_STORE_URI"] == store
