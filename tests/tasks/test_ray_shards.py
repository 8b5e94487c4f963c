"""Shards mapped on Ray by Prefect's Ray task runner: a real Ray of two workers, and a real Prefect server."""

import dataclasses
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from specimens import drawn

from ost.data import write_samples
from ost.errors import ConfigError, ModelError
from ost.scoring import Job, score_file
from ost.scoring.shards import run_here
from ost.settings import Lookahead, Score
from ost.store import read_table, write_table
from tasks.settings import Compute
from tasks.stages.ray_shards import runner


@pytest.fixture(scope="module")
def job(tmp_path_factory, proxy) -> Job:
    folder = tmp_path_factory.mktemp("ray")
    write_samples(folder / "pool.parquet", drawn("pool", 96, 2))
    write_samples(folder / "anchors.parquet", drawn("anchors", 8))
    proxy.save(folder / "proxy")
    settings = Score(method="gradient", shard_size=16, checks=0, folds=2, lookahead=Lookahead(most_steps=2))
    return Job(folder / "pool.parquet", folder / "anchors.parquet", folder / "proxy", folder / "store", settings)


@pytest.fixture(autouse=True)
def prefect(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))


def stored(path: Path) -> dict[str, pa.Table]:
    """All rows below a folder, without the seconds that they took."""
    return {file.name: read_table(file).drop_columns("seconds") for file in path.rglob("*.parquet")}


@pytest.mark.parametrize("method", ["gradient", "lookahead"])
def test_two_workers_leave_the_rows_of_one_process(method, job, tmp_path):
    """Those of `lookahead` take the anchors' training from this process, which alone does it."""
    settings = job.settings.model_copy(update={"method": method})
    job = dataclasses.replace(job, settings=settings, store=tmp_path / "there")
    here = score_file(dataclasses.replace(job, store=tmp_path / "here"))
    sizes: list[int] = []
    run = runner(Compute(ray="local", ray_workers=2))
    there = score_file(job, run, lambda done, total, note="": sizes.append(done))
    assert stored(job.store) == stored(tmp_path / "here") and len(stored(job.store)) == 6
    for name, scored in {"here": here, "there": there}.items():
        write_table(tmp_path / f"{name}.parquet", scored.table)
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert sizes[-6:] == [16, 32, 48, 64, 80, 96], "progress moves as shards are published"
    assert len(list(job.store.rglob("walk.safetensors"))) == (method == "lookahead")


def test_a_shard_that_fails_ends_the_run_with_its_own_error(job, tmp_path):
    """An adapter whose base goes missing is seen by the workers, which load the proxy for themselves."""
    broken = dataclasses.replace(job, store=tmp_path / "store", proxy=tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no model at"):
        list(runner(Compute(ray="local", ray_workers=1))(broken, [range(16)]))


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'ost-pipeline\[ray\]'"):
        runner(Compute(ray="local"))
    assert runner(Compute()) is run_here


def test_nothing_to_score_starts_nothing(job):
    assert list(runner(Compute(ray="ray://nowhere:1"))(job, [])) == []
