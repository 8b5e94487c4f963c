"""All servers together, wired to each other, with the work pool and the deployments of prefect.yaml."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack.processes import BIN, Server, free_ports, run, running
from stack.servers import S3, mlflow_server, postgres, prefect_server, s3_server, write_secret

POOL = "ost"
"""The work pool that prefect.yaml names."""
BUCKETS = ("ost", "mlflow")
"""For data and DVC, and for MLflow's artifacts."""


@dataclass(frozen=True)
class Ports:
    """Where the servers listen."""

    prefect: int = 4200
    mlflow: int = 5000
    s3: int = 8333
    postgres: int = 5433

    @classmethod
    def free(cls) -> "Ports":
        """Some that nobody listens on."""
        return cls(*free_ports(4))


@dataclass(frozen=True)
class Stack:
    """The servers, running."""

    environment: dict[str, str]
    """Of whoever works with them."""
    database: Server
    storage: Server


@contextlib.contextmanager
def stack(folder: Path, ports: Ports | None = None) -> Iterator[Stack]:
    """Start the servers, the one after the other needs it.

    What they hold stays in the folder, and so do their passwords, which are made at the first start.
    """
    ports = ports or Ports()
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    with contextlib.ExitStack() as started:
        database, process = started.enter_context(
            postgres(folder, ports.postgres, _secret(folder, "postgres"), ("prefect", "mlflow"))
        )
        s3 = started.enter_context(s3_server(folder, ports.s3, _secret(folder, "s3")))
        _make_buckets(s3)
        store = f"postgresql+psycopg2://{database}/mlflow"
        tracking = started.enter_context(mlflow_server(folder, ports.mlflow, store, "s3://mlflow", s3.environment))
        api = started.enter_context(prefect_server(folder, ports.prefect, f"{database}/prefect"))
        found = {"PREFECT_API_URL": api, "PREFECT_HOME": str(folder / "prefect"), "MLFLOW_TRACKING_URI": tracking}
        yield Stack(found | s3.environment, process, s3.process)


def prepare(environment: dict[str, str]) -> None:
    """Make the work pool in Prefect, where it is not yet."""
    options = {"env": os.environ | environment}
    run([BIN / "prefect", "--no-prompt", "work-pool", "create", POOL, "--type", "process", "--overwrite"], **options)


def deploy(project: Path, environment: dict[str, str]) -> None:
    """Make the deployments of a folder's prefect.yaml, which run in that folder, and the automations."""
    here = {"PWD": str(project)}  # where prefect.yaml has them run
    options = {"env": os.environ | environment | here, "cwd": project}
    run([BIN / "prefect", "--no-prompt", "deploy", "--all"], **options)
    run([BIN / "ost", "automate", "--accelerators", "1"], **options)


@contextlib.contextmanager
def worker(folder: Path, environment: dict[str, str], name: str = "worker") -> Iterator[Server]:
    """A Prefect worker of the pool, which runs flows in processes of their own. What it says is in NAME.log."""
    command = [BIN / "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    log = folder / f"{name}.log"
    log.write_bytes(b"")
    with running(command, lambda: "started" in log.read_text(), log, env=os.environ | environment) as process:
        yield process


def _secret(folder: Path, name: str) -> str:
    path = folder / f"{name}.secret"
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(24))
    path.chmod(0o600)
    return path.read_text()


def _make_buckets(s3: S3) -> None:
    client = s3.client()
    known = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in known:
            client.create_bucket(Bucket=name)
