"""The real servers, a workspace whose data lies in S3, and a worker that runs its deployments."""

import contextlib
import hashlib
import json
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_workspace import RECURATED, Shell, make_workspace

from ost.data import write_samples
from ost.store import read_json
from ost.worlds import handmath
from stack.processes import Server
from stack.servers import S3
from stack.stack import Ports, Stack, deploy, prepare, stack, worker
from tasks.settings import load_params
from tasks.tracking import Tracker

ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""States that a run stays in."""

SETTINGS = [
    "data.pool=s3://ost/incoming/",
    "data.anchors=s3://ost/anchors.parquet",
    "data.benchmark=s3://ost/benchmark.parquet",
    "recurate.publish=s3://ost/selections",
]


@dataclass
class Production:
    """Servers, a worker, and a workspace that its deployments run in."""

    folder: Path
    servers: Stack
    shell: Shell
    told: list[dict]
    """Notifications that have arrived."""
    worker: Server | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever works with the servers."""
        return self.servers.environment

    def upload(self, key: str, content: bytes | list[handmath.Problem]) -> None:
        """Put an object into the bucket; right answers to problems become a Parquet file."""
        if isinstance(content, list):
            write_samples(self.folder / "upload.parquet", map(handmath.to_sample, content))
            content = (self.folder / "upload.parquet").read_bytes()
        self.s3().put_object(Bucket="ost", Key=key, Body=content)

    def s3(self):
        """A client of the S3 server."""
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return S3(*(self.environment[name] for name in names)).client()

    def start(self) -> str:
        """Ask for a run of the weekly deployment; returns its id."""
        weekly = self.ask("/deployments/name/recurate/weekly")
        return self.ask(f"/deployments/{weekly['id']}/create_flow_run", {})["id"]

    def state(self, run: str) -> str:
        """Name of the state that a run is in; empty where the server cannot tell, its database being away."""
        try:
            return self.ask(f"/flow_runs/{run}")["state"]["type"]
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            return ""

    def ask(self, path: str, content: dict | None = None) -> dict:
        """What Prefect's server answers to a GET, or to a POST of some content."""
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.environment["PREFECT_API_URL"] + path, data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def finish(self, run: str, seconds: float = 400) -> str:
        """Wait for the end of a run; returns the name of its last state."""
        return self.wait(lambda: (state := self.state(run)) in ENDS and state, seconds)

    def wait(self, found: Callable[[], object], seconds: float = 400) -> object:
        """Ask again and again until there is something; returns it."""
        deadline = time.monotonic() + seconds
        while not (something := found()):
            assert time.monotonic() < deadline, f"nothing after {seconds} s; {self.log()[-3000:]}"
            time.sleep(0.2)
        return something

    def log(self, worker: str = "worker") -> str:
        """What a worker and its flows have said."""
        return (self.folder / f"{worker}.log").read_text(errors="replace")

    def summaries(self) -> list[dict]:
        """Of all recurations, the oldest first."""
        return [read_json(path / "summary.json") for path in sorted((self.shell.root / "recurations").glob("2*"))]

    def published(self) -> tuple[str, bytes]:
        """Name and selection that a reader finds who starts at latest.json; it must be whole."""
        client = self.s3()
        latest = json.load(client.get_object(Bucket="ost", Key="selections/latest.json")["Body"])
        files = {
            path: client.get_object(Bucket="ost", Key=one["key"])["Body"].read()
            for path, one in latest["files"].items()
        }
        for path, one in latest["files"].items():
            assert hashlib.md5(files[path]).hexdigest() == one["md5"], f"{path} is not what latest.json promises"
        return latest["name"], files["selections/lookahead-20.parquet"]


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[dict]]]:
    """An address that notifications can be posted to, and what has come there."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/notify", told
        server.shutdown()


@pytest.fixture(scope="session")
def production() -> Iterator[Production]:
    """All servers up, a worker at work, and the first run of the weekly deployment done."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)  # PostgreSQL has a user of its own where the tests run as root
    try:
        with stack(folder / "servers", Ports.free()) as servers, listening() as (address, told):
            prepare(servers.environment)
            shell = make_workspace(folder / "workspace", folder / "servers/prefect", [*RECURATED, *SETTINGS])
            shell.environment |= servers.environment
            shutil.copyfile(Path(__file__).parents[2] / "prefect.yaml", shell.root / "prefect.yaml")
            deploy(shell.root, servers.environment | {"OST_NOTIFY_URL": address})
            found = Production(folder / "servers", servers, shell, told)
            for split, count in (("anchors", 20), ("benchmark", 60)):
                found.upload(f"{split}.parquet", handmath.draw(split, count, 0))
            found.upload("incoming/2026-11-01.parquet", handmath.draw("pool", 200, 0))
            with worker(found.folder, servers.environment) as found.worker:
                assert found.finish(found.start()) == "COMPLETED", found.log()
                yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def record(production, monkeypatch) -> Tracker:
    """The record, on the server."""
    for name, value in production.environment.items():
        monkeypatch.setenv(name, value)
    return Tracker(production.shell.root, load_params(production.shell.root / "params.yaml"))
