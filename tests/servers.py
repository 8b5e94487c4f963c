"""Real servers for the tests, on loopback and free ports, stopped when the test is over."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent

START = 60.0
"""Seconds that a server has to answer."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(command: list[str], address: str, log: Path, **options) -> Iterator[None]:
    """A server process, from its first answer at `address` to the end of the block."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, **options)
    try:
        deadline = time.monotonic() + START
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} does not answer at {address}: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own children too; what it holds is thrown away
        process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class S3:
    """An S3 server and the one identity that it knows."""

    endpoint: str
    key: str = "OSTTESTKEY"
    secret: str = "a-secret-that-no-message-may-hold"  # made for this server alone

    @property
    def environment(self) -> dict[str, str]:
        """What boto3, and so DVC, take the address and the credentials from."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """SeaweedFS with its S3 gateway."""
    ports = iter(free_ports(8))
    server = S3(f"http://127.0.0.1:{next(ports)}")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": server.key, "secretKey": server.secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config, data = folder / "s3.json", folder / "data"
    config.write_text(json.dumps({"identities": [identity]}))
    data.mkdir()
    options = {"s3.config": config, "dir": data, "ip": "127.0.0.1", "s3.port": server.endpoint.rpartition(":")[2]}
    for one in ("master", "volume", "filer"):
        options |= {f"{one}.port": next(ports), f"{one}.port.grpc": next(ports)}
    options |= {"s3.port.grpc": next(ports), "s3.port.iceberg": 0, "s3.port.lance": 0}
    options |= {"volume.max": 100, "master.volumeSizeLimitMB": 32}
    flags = [f"-{name}={value}" for name, value in options.items()]
    command = [str(BIN / "weed"), "server", "-s3", *flags]
    with running(command, server.endpoint, folder / "weed.log", cwd=folder):
        yield server


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """An MLflow tracking server with its own store; yields its address."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    options = {
        "backend-store-uri": f"sqlite:///{folder / 'server.db'}",
        "artifacts-destination": folder / "artifacts",
        "host": "127.0.0.1",
        "port": port,
        "workers": 1,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [str(BIN / "mlflow"), "server", *flags]
    with running(command, f"{address}/health", folder / "mlflow.log", cwd=folder):
        yield address
