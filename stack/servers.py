"""Each of the servers, on ports and in a folder that are given to it."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import boto3

from stack.processes import BIN, Server, ServerError, free_ports, run, running

POSTGRES_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
"""Where Debian puts binaries that are not on the path."""


REGION = "us-east-1"
"""Of the S3 server; any will do."""


@dataclass(frozen=True)
class S3:
    """An S3 server and the one identity that it knows."""

    endpoint: str
    key: str = "OSTTESTKEY"
    secret: str = "a-secret-that-no-message-may-hold"  # made for this server alone
    process: Server | None = None
    """None where somebody else started it."""

    @property
    def environment(self) -> dict[str, str]:
        """What boto3, and so DVC, take the address and the credentials from."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self):
        """A client of boto3."""
        keys = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret, "region_name": REGION}
        return boto3.session.Session().client("s3", endpoint_url=self.endpoint, **keys)


@contextlib.contextmanager
def s3_server(folder: Path, port: int | None = None, secret: str = S3.secret) -> Iterator[S3]:
    """SeaweedFS with its S3 gateway."""
    ports = iter(free_ports(8))
    server = S3(f"http://127.0.0.1:{port or next(ports)}", secret=secret)
    identity = {
        "name": "ost",
        "credentials": [{"accessKey": server.key, "secretKey": server.secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config, data = folder / "s3.json", folder / "data"
    write_secret(config, json.dumps({"identities": [identity]}))
    data.mkdir(exist_ok=True)
    options = {"s3.config": config, "dir": data, "ip": "127.0.0.1", "s3.port": server.endpoint.rpartition(":")[2]}
    for one in ("master", "volume", "filer"):
        options |= {f"{one}.port": next(ports), f"{one}.port.grpc": next(ports)}
    options |= {"s3.port.grpc": next(ports), "s3.port.iceberg": 0, "s3.port.lance": 0}
    options |= {"volume.max": 100, "master.volumeSizeLimitMB": 32, "volume.preStopSeconds": 0}
    flags = [f"-{name}={value}" for name, value in options.items()]
    command = [BIN / "weed", "server", "-s3", *flags]
    # Its volumes are closed at once; what it then waits for are connections between its own parts.
    with running(command, server.endpoint, folder / "weed.log", patience=3.0, cwd=folder) as process:
        yield replace(server, process=process)


@contextlib.contextmanager
def postgres(folder: Path, port: int, password: str, databases: tuple[str, ...] = ()) -> Iterator[tuple[str, Server]]:
    """PostgreSQL, listening on loopback alone; yields `user:password@host:port` and its process.

    As root it runs as the system's user `postgres`, for it refuses to run as root. Raises ServerError where there is no
    PostgreSQL.
    """
    data = folder / "postgres"
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    if not data.exists():
        data.mkdir(mode=0o700)
        secret = folder / "postgres.password"
        write_secret(secret, password)
        if user:
            shutil.chown(data, "postgres")
            shutil.chown(secret, "postgres")
        options = ["--username=ost", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        run([_binary("initdb"), f"--pgdata={data}", *options], cwd=folder, **user)
        secret.unlink()
    command = [_binary("postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    with running(command, lambda: _listens(port), folder / "postgres.log", cwd=folder, **user) as process:
        access = {"PGPASSWORD": password, "PGUSER": "ost", "PGHOST": "127.0.0.1", "PGPORT": str(port)}
        for name in databases:
            _create_database(name, os.environ | access)
        yield f"ost:{password}@127.0.0.1:{port}", process


@contextlib.contextmanager
def mlflow_server(
    folder: Path,
    port: int | None = None,
    store: str = "",
    artifacts: str = "",
    environment: dict[str, str] | None = None,
) -> Iterator[str]:
    """An MLflow tracking server; yields its address. Store and artifacts lie in the folder unless others are given.

    `environment`: what it needs besides this process's, such as the credentials of its artifacts' store.
    """
    port = port or free_ports(1)[0]
    address = f"http://127.0.0.1:{port}"
    options = {
        "artifacts-destination": artifacts or folder / "artifacts",
        "host": "127.0.0.1",
        "port": port,
        "workers": 1,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    own = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no jobs, no runners
        # Its password would be seen by all in the list of processes.
        "MLFLOW_BACKEND_STORE_URI": store or f"sqlite:///{folder / 'server.db'}",
    }
    own |= environment or {}
    with running([BIN / "mlflow", "server", *flags], f"{address}/health", folder / "mlflow.log", cwd=folder, env=own):
        yield address


@contextlib.contextmanager
def prefect_server(folder: Path, port: int, database: str) -> Iterator[str]:
    """A Prefect server on a PostgreSQL database; yields the address of its API."""
    environment = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
    }
    command = [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/api"
    with running(command, f"{address}/health", folder / "prefect.log", cwd=folder, env=os.environ | environment):
        yield address


def write_secret(file: Path, text: str) -> None:
    """Write a file that its owner alone may read, whoever could read it before."""
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text)


def _binary(name: str) -> Path:
    found = shutil.which(name) or next((path / name for path in POSTGRES_FOLDERS if (path / name).exists()), None)
    if found is None:
        raise ServerError(f"PostgreSQL's {name} is not here: install PostgreSQL (Debian: apt install postgresql)")
    return Path(found)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _create_database(name: str, environment: dict[str, str]) -> None:
    command = [_binary("psql"), "--dbname=postgres", "--tuples-only", "--command"]
    known = run([*command, f"select 1 from pg_database where datname = '{name}'"], env=environment)
    if not known.strip():
        run([_binary("createdb"), name], env=environment)
