"""The scheduled recuration on PostgreSQL, S3, Prefect and MLflow, run by a worker."""

import json

import pytest

from ost.config import load_params
from ost.store import digest, read_json, read_table
from ost.worlds import handmath
from tasks.promotion import CHAMPION
from tasks.tracking import Tracker


@pytest.fixture
def record(production, monkeypatch) -> Tracker:
    """The record, on the server."""
    for name, value in production.environment.items():
        monkeypatch.setenv(name, value)
    return Tracker(production.shell.root, load_params(production.shell.root / "params.yaml"))


def summaries(root) -> list[dict]:
    return [read_json(path / "summary.json") for path in sorted((root / "recurations").glob("2*"))]


def test_the_weekly_run_scores_what_is_new_and_leaves_the_rest(production):
    root = production.shell.root
    with production.worker():
        assert production.finish(production.start()) == "COMPLETED"
        (first,) = summaries(root)
        assert first["counts"]["new"] == 200 and first["challenge"]["promoted"]
        proxy = digest(root / "models/proxy-warm")
        production.upload("incoming/2026-11-08.parquet", handmath.draw("pool", 20, 0, stream=1))
        assert production.finish(production.start()) == "COMPLETED"
        _, second = summaries(root)
        assert second["counts"]["new"] == 20 and second["samples"] == 220
        assert digest(root / "models/proxy-warm") == proxy
        assert production.finish(production.start()) == "COMPLETED"
        assert len(summaries(root)) == 2, "a run without new data left something"
    latest = json.load(production.s3().get_object(Bucket="ost", Key="selections/latest.json")["Body"])
    assert latest["name"] == second["name"]
    key = latest["files"]["selections/ost.parquet"]["key"]
    assert (
        production.s3().get_object(Bucket="ost", Key=key)["Body"].read()
        == (root / "selections/ost.parquet").read_bytes()
    )


def test_the_champion_lies_in_s3_and_its_lineage_leads_back_to_the_data(production, record):
    champion = record.aliased(CHAMPION)
    listed = production.s3().list_objects_v2(Bucket="mlflow", Prefix="")["Contents"]
    assert any(champion.run_id in one["Key"] and one["Key"].endswith(".safetensors") for one in listed)
    printed = production.shell.run("ost", "lineage", f"{record.model_name}@champion")
    for path in ("selections/ost.parquet", "scores/utility.parquet", "models/proxy-warm", "data/pool.parquet"):
        assert path in printed


def test_no_secret_is_in_a_log_or_in_the_record(production, record):
    secrets = [path.read_text() for path in production.folder.glob("*.secret")]
    assert len(secrets) == 2
    texts = [path.read_text(errors="replace") for path in production.folder.glob("*.log")]
    texts += [f"{run.data.params} {run.data.tags}" for run in record.client.search_runs([record.experiment])]
    assert not [secret for secret in secrets for text in texts if secret in text]
    assert len(read_table(production.shell.root / "selections/ost.parquet")) == 220
