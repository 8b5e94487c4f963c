"""What the tests of the stages share: a workspace that is only a folder, and a real MLflow store on SQLite."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.parameters import set_params
from ost.store import digest
from tasks.settings import Params, Tracking
from tasks.tracking import Tracker

ROOT = Path(__file__).parents[2]

SMALL = ["base.target_steps=4", "base.proxy_steps=4", "base.batch_size=4"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a params.yaml, and so enough for a stage to run in."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    set_params(tmp_path / "params.yaml", SMALL)
    return tmp_path


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    """Address of an MLflow store, its tables made once."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def tracked_as() -> Callable[[str, str], Params]:
    """Parameters that name a store, and an experiment and a model in it."""

    def params(uri: str, name: str) -> Params:
        return Params(tracking=Tracking(uri=uri, experiment=name, model_name=f"model-{name}"))

    return params


@pytest.fixture
def tracker(store, tracked_as, tmp_path, request, monkeypatch) -> Tracker:
    """A record of the test's own: its experiment and its model share the store with others', but no run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Tracker(tmp_path, tracked_as(store, request.node.name))


@pytest.fixture
def made(tmp_path) -> Callable[..., dict]:
    """Makes a stage's outputs and the manifest that the stage would have written."""

    def make(stage: str, inputs: dict[str, str], outputs: dict[str, bytes], **more) -> dict:
        for path, content in outputs.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
        return {
            "stage": stage,
            "seed": 0,
            "params": {"seed": 0, "select": {"purity": 0.85}},
            "inputs": inputs,
            "outputs": {path: digest(tmp_path / path) for path in outputs},
            "metrics": {},
            "warnings": [],
            "datasets": {},
            "seconds": 1.5,
            "flops": 2e9,
            "started": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).isoformat(),
            "git": {"commit": "c0ffee" * 6 + "c0ff", "dirty": False},
        } | more

    return make
