"""What the tests of ingestion share: a model's folder, whose processor counts tokens, and sources without a fault."""

from pathlib import Path

import pytest
from pools import Intake
from specimens import drawn

from ost.data import Sample, write_samples
from ost.models import Checkpoint


@pytest.fixture(scope="session")
def model_folder(fresh: Checkpoint, tmp_path_factory) -> Path:
    """A checkpoint on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    fresh.save(folder)
    return folder


@pytest.fixture(scope="session")
def clean() -> dict[str, list[Sample]]:
    """Samples of the built-in world for each source; no two ask the same."""
    return {source: drawn(source, count) for source, count in {"pool": 8, "anchors": 4, "benchmark": 4}.items()}


@pytest.fixture(scope="session")
def clean_files(clean, tmp_path_factory) -> dict[str, Path]:
    """They, as files."""
    folder = tmp_path_factory.mktemp("clean")
    return {source: write_samples(folder / f"{source}.parquet", samples) for source, samples in clean.items()}


@pytest.fixture
def take(clean_files, model_folder, tmp_path) -> Intake:
    """Ingest into this test's folder."""
    return Intake(tmp_path, clean_files, model_folder)


@pytest.fixture
def small_units(monkeypatch):
    """Units of a few records; where they end is decided by the records."""
    monkeypatch.setattr("ost.formats.unit.TYPICAL_RECORDS", 8)
