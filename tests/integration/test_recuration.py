"""The scheduled recuration on PostgreSQL, S3, Prefect and MLflow, run by a worker."""

import shutil

from tiny_workspace import Shell

from ost.store import digest, read_table
from ost.worlds import handmath
from tasks.promotion import CHAMPION


def test_the_weekly_run_scores_what_is_new_and_leaves_the_rest(production):
    root = production.shell.root
    first = production.summaries()[0]
    assert first["counts"]["new"] == 200 and first["challenge"]["promoted"]
    before, proxy = production.summaries()[-1], digest(root / "models/proxy-warm")
    production.upload("incoming/2026-11-08.parquet", handmath.draw("pool", 20, 0, stream=1))
    assert production.finish(production.start()) == "COMPLETED"
    now = production.summaries()[-1]
    assert now["counts"]["new"] == 20 and now["samples"] == before["samples"] + 20
    assert digest(root / "models/proxy-warm") == proxy
    assert production.published() == (now["name"], (root / "selections/ost.parquet").read_bytes())
    assert production.finish(production.start()) == "COMPLETED"
    assert production.summaries()[-1] == now, "a run without new data left something"


def test_people_are_told_of_a_new_champion(production):
    def told():
        return [one["body"] for one in production.told if one["subject"] == "OST: a new champion"]

    bodies = production.wait(told, 60)
    assert any("is the first champion" in body and "new: 200" in body for body in bodies), bodies


def test_of_two_runs_at_once_the_second_waits(production):
    before = len(production.summaries())
    production.upload("incoming/2026-11-09.parquet", handmath.draw("pool", 5, 0, stream=2))
    runs = [production.start(), production.start()]
    assert [production.finish(run) for run in runs] == ["COMPLETED", "COMPLETED"]
    (one,) = production.summaries()[before:]
    assert one["counts"]["new"] == 5, "the second did the same again"


def test_the_champion_lies_in_s3_and_its_lineage_leads_back_to_the_data(production, record):
    champion = record.aliased(CHAMPION)
    listed = production.s3().list_objects_v2(Bucket="mlflow", Prefix="")["Contents"]
    assert any(champion.run_id in one["Key"] and one["Key"].endswith(".safetensors") for one in listed)
    for version in ("champion", "1"):
        printed = production.shell.run("ost", "lineage", f"{record.model_name}@{version}")
        for path in ("selections/ost.parquet", "scores/utility.parquet", "models/proxy-warm", "data/pool.parquet"):
            assert path in printed, f"the lineage of {version} does not lead to {path}"


def test_what_dvc_keeps_can_be_pushed_to_the_same_s3_and_pulled_from_it(production, tmp_path):
    copy = Shell(tmp_path / "workspace", production.shell.environment)
    shutil.copytree(production.shell.root, copy.root, symlinks=True)
    scores = digest(copy.root / "scores/utility.parquet")
    copy.run("dvc", "remote", "add", "--default", "store", "s3://ost/dvc")
    copy.run("dvc", "push", "score")
    for path in (copy.root / ".dvc/cache", copy.root / "scores"):
        shutil.rmtree(path)
    copy.run("dvc", "pull", "score")
    assert digest(copy.root / "scores/utility.parquet") == scores


def test_no_secret_is_in_a_log_or_in_the_record(production, record):
    secrets = [path.read_text() for path in production.folder.glob("*.secret")]
    assert len(secrets) == 2
    texts = [path.read_text(errors="replace") for path in production.folder.glob("*.log")]
    texts += [f"{run.data.params} {run.data.tags}" for run in record.client.search_runs([record.experiment])]
    assert not [secret for secret in secrets for text in texts if secret in text]
    assert len(read_table(production.shell.root / "selections/ost.parquet")) >= 200
