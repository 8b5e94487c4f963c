"""A tiny workspace, curated once by the real command: Prefect's embedded server, MLflow on SQLite, DVC."""

import shutil
from pathlib import Path

import pytest
from tiny_workspace import TINY, Shell, make_workspace


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def curated(tmp_path_factory, prefect_home) -> Shell:
    """A workspace after `ost curate`; not to be changed. What the command printed is in curate.log."""
    shell = make_workspace(tmp_path_factory.mktemp("curated") / "workspace", prefect_home, TINY)
    (shell.root.parent / "curate.log").write_text(shell.run("ost", "curate"))
    return shell


@pytest.fixture
def copied(curated, tmp_path) -> Shell:
    """A copy of the curated workspace, to be changed at will."""
    shutil.copytree(curated.root, tmp_path / "workspace", symlinks=True)
    return Shell(tmp_path / "workspace", curated.environment)
