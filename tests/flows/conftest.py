"""A tiny workspace, curated once by the real command: Prefect's embedded server, MLflow on SQLite, DVC."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from tiny_workspace import TINY, Shell, make_workspace, shell_at


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def curated(tmp_path_factory, prefect_home) -> Shell:
    """A workspace after `ost curate`; not to be changed. What the command printed is in curate.log.

    It is made once for all processes that run tests side by side.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "curated"
    with FileLock(f"{folder}.lock"):
        if (folder / "curate.log").exists():
            return shell_at(folder / "workspace", prefect_home)
        shutil.rmtree(folder, ignore_errors=True)
        shell = make_workspace(folder / "workspace", prefect_home, TINY)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PREFECT_API_URL", raising=False)
            (folder / "curate.log").write_text(shell.run("ost", "curate"))
        return shell


@pytest.fixture(scope="session")
def prefect_server(prefect_home) -> Iterator[str]:
    """Address of a Prefect server that many commands share: one of their own takes each ten seconds to start."""
    settings = {
        PREFECT_HOME: prefect_home,
        PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{prefect_home}/s.db",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,  # 20 are too short on a busy machine
    }
    with temporary_settings(settings), SubprocessASGIServer() as server:
        yield server.api_url


@pytest.fixture(scope="module")
def on_one_server(prefect_server) -> Iterator[None]:
    """Commands of this file report to one server, and so do flows in this process."""
    settings = {PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}  # logs come after its end
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
        patch.setenv("PREFECT_API_URL", prefect_server)
        yield


@pytest.fixture
def copied(curated, tmp_path) -> Shell:
    """A copy of the curated workspace, to be changed at will."""
    shutil.copytree(curated.root, tmp_path / "workspace", symlinks=True)
    return Shell(tmp_path / "workspace", curated.environment)
