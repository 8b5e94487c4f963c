"""The scheduled recuration on PostgreSQL, S3, Prefect and MLflow, run by a worker; and what production does to it."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image
from tiny_workspace import Shell

from ost.store import digest, read_json, read_table
from ost.worlds import handmath
from stack.processes import BIN
from stack.stack import worker
from tasks.record.champion import CHAMPION
from tasks.record.outbox import FOLDER as OUTBOX


@pytest.fixture
def arrives(production):
    """Uploads new samples, and returns how many runs there were before."""

    def upload(stream: int, count: int = 10) -> int:
        production.upload(f"incoming/more-{stream}.parquet", handmath.draw("pool", count, 0, stream=stream))
        return len(production.summaries())

    return upload


BEFORE = {"score": "ingest", "sft": "select-lookahead-20"}


def under_way(production, stage: str, since: int, worker: str = "worker"):
    """Whether a stage has begun, by the worker's log from there on: the one before it is done."""
    return lambda: f"'{BEFORE[stage]}' - Finished" in production.log(worker)[since:]


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
    assert production.published() == (now["name"], (root / "selections/lookahead-20.parquet").read_bytes())
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
    limit = production.ask("/concurrency_limits/tag/accelerator")
    assert (limit["concurrency_limit"], limit["active_slots"]) == (1, []), "a slot is lost"


def test_the_champion_lies_in_s3_and_its_lineage_leads_back_to_the_data(production, record):
    champion = record.aliased(CHAMPION)
    listed = production.s3().list_objects_v2(Bucket="mlflow", Prefix="")["Contents"]
    assert any(champion.run_id in one["Key"] and one["Key"].endswith(".safetensors") for one in listed)
    for version in ("champion", "1"):
        printed = production.shell.run("ost", "lineage", f"{record.model_name}@{version}")
        for path in ("selections/lookahead-20.parquet", "scores/lookahead.parquet", "models/proxy-warm", "data/pool"):
            assert path in printed, f"the lineage of {version} does not lead to {path}"


def test_what_dvc_keeps_can_be_pushed_to_the_same_s3_and_pulled_from_it(production, tmp_path):
    copy = Shell(tmp_path / "workspace", production.shell.environment)
    shutil.copytree(production.shell.root, copy.root, symlinks=True)
    scores = digest(copy.root / "scores/lookahead.parquet")
    copy.run("dvc", "remote", "add", "--default", "store", "s3://ost/dvc")
    copy.run("dvc", "push", "score-lookahead")
    for path in (copy.root / ".dvc/cache", copy.root / "scores"):
        shutil.rmtree(path)
    copy.run("dvc", "pull", "score-lookahead")
    assert digest(copy.root / "scores/lookahead.parquet") == scores


# --- faults -----------------------------------------------------------------------------------------------------------


def test_storage_that_is_down_when_the_run_starts_is_waited_for(production, arrives):
    before, since = arrives(11), len(production.log())
    production.servers.storage.stop()
    run = production.start()
    production.wait(lambda: "the object storage does not answer" in production.log()[since:])
    production.servers.storage.start()
    assert production.finish(run) == "COMPLETED"
    (one,) = production.summaries()[before:]
    assert one["counts"]["new"] == 10
    assert production.published()[0] == one["name"]


def test_a_database_that_restarts_under_prefect_and_mlflow_costs_nothing(production, arrives, record):
    before, since = arrives(12), len(production.log())
    run = production.start()
    production.wait(under_way(production, "score", since))
    production.servers.database.stop()
    time.sleep(5)
    production.servers.database.start()
    assert production.finish(run) == "COMPLETED"
    (one,) = production.summaries()[before:]
    assert one["counts"]["new"] == 10
    assert not list((production.shell.root / OUTBOX).glob("*.json")), "a record was not delivered"
    assert record.runs_with("ost.stage", "score-lookahead")[0].info.status == "FINISHED"


def test_poisoned_objects_are_quarantined_with_a_reason_and_the_rest_goes_on(production, arrives):
    before = arrives(13)
    whole = production.s3().get_object(Bucket="ost", Key="incoming/more-13.parquet")["Body"].read()
    production.upload("incoming/poison-1.parquet", whole[:-100])
    html = sample("<script>alert(1)</script> 1 + 1 = ?")
    bad = [sample("bomb?", images=[data_url(bomb())]), sample("path?", images=["../../../../etc/passwd"])]
    lines = [json.dumps(one) for one in (html, *bad)] + ['{"messages": [']
    production.upload("incoming/poison-2.jsonl", "\n".join(lines).encode())
    assert production.finish(production.start()) == "COMPLETED"
    (one,) = production.summaries()[before:]
    assert one["counts"]["new"] == 11, "ten that came with them, and the one whose text only looks dangerous"
    quarantine = read_table(production.shell.root / "data/quarantine.parquet").to_pylist()
    assert [(entry["reason"], entry["id"] != "") for entry in quarantine if entry["source"] == "pool"] == [
        ("broken-file", False),
        ("image-too-large", False),
        ("image-outside-folder", False),
        ("malformed", False),
    ]
    counts = read_json(production.shell.root / "metrics/ingest.json")["counts"]["pool"]
    assert counts["read"] == counts["kept"] + counts["quarantined"] == one["samples"] + 4
    for key in ("incoming/poison-1.parquet", "incoming/poison-2.jsonl"):
        production.s3().delete_object(Bucket="ost", Key=key)


def test_after_a_worker_was_killed_one_on_another_machine_goes_on_where_it_stood(production, arrives):
    """Killed as it scores, and its successor, with which it shares the folder, as that trains: then little is left."""
    root = production.shell.root
    before, seen, since = arrives(14), production.published(), len(production.log())
    shards = modified(root / ".ost/scores")
    killed = [production.start()]
    production.wait(under_way(production, "score", since))
    production.worker.kill_tree()
    with worker(production.folder, production.environment, "second") as second:
        killed.append(production.start())
        production.wait(under_way(production, "sft", 0, "second"))
        second.kill_tree()
    assert production.published() == seen, "a selection is visible that no run has finished"
    scores = modified(root / "scores")
    production.worker.start()
    assert production.finish(production.start()) == "COMPLETED"
    assert {production.state(run) for run in killed} == {"CRASHED"}, "a dead run is still shown at work"
    assert production.wait(lambda: any(one["subject"] == "OST: a run failed" for one in production.told), 60)
    (one,) = production.summaries()[before:]
    assert one["counts"]["new"] == 10
    assert modified(root / ".ost/scores").items() >= shards.items(), "what was scored was scored again"
    assert modified(root / "scores") == scores, "the scores were made again"
    assert production.published()[0] == one["name"]


def test_another_machine_takes_a_workspace_over_from_git_and_s3(production, tmp_path):
    """Without a folder between them: what a person copies beside is told in docs/production.md."""
    first, second = (Shell(tmp_path / name, production.shell.environment) for name in ("first", "second"))
    shutil.copytree(production.shell.root, first.root, symlinks=True)
    first.run("dvc", "remote", "add", "--default", "store", "s3://ost/dvc")
    first.run("dvc", "push")
    first.run("git", "add", "params.yaml", "dvc.yaml", "dvc.lock", ".dvc/config", *first.root.glob("*/.gitignore"))
    first.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "week 1")
    subprocess.run(["git", "clone", "--quiet", first.root, second.root], check=True)
    second.run("dvc", "pull", "--allow-missing")  # what a re-curation does not make
    for beside in ("recurations", ".ost/scores"):
        shutil.copytree(first.root / beside, second.root / beside)
    assert "nothing" in second.run("ost", "recurate"), "what is as it was is done again"
    shards = modified(second.root / ".ost/scores")
    production.upload("incoming/more-18.parquet", handmath.draw("pool", 10, 0, stream=18))
    second.run("ost", "recurate")
    summary = read_json(max((second.root / "recurations").glob("2*")) / "summary.json")
    assert summary["counts"]["new"] == 10 and not summary["why_warmed_up"]
    assert read_json(second.root / "scores/lookahead.manifest.json")["metrics"]["scored"] == 10
    assert modified(second.root / ".ost/scores").items() >= shards.items()


def test_wrong_credentials_are_a_clear_error_that_no_log_quotes(production, arrives):
    arrives(16)
    secret = "not-the-secret-of-this-key"
    environment = os.environ | production.shell.environment | {"AWS_SECRET_ACCESS_KEY": secret}
    command = [BIN / "ost", "recurate"]
    done = subprocess.run(command, cwd=production.shell.root, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said
    assert "set AWS_ACCESS_KEY_ID" in said
    assert secret not in said and production.environment["AWS_SECRET_ACCESS_KEY"] not in said


def test_no_secret_is_in_a_log_or_in_the_record(production, record):
    secrets = [path.read_text() for path in production.folder.glob("*.secret")]
    assert len(secrets) == 2
    texts = [path.read_text(errors="replace") for path in production.folder.glob("*.log")]
    texts += [f"{run.data.params} {run.data.tags}" for run in record.client.search_runs([record.experiment])]
    assert not [secret for secret in secrets for text in texts if secret in text]
    assert len(read_table(production.shell.root / "selections/lookahead-20.parquet")) >= 200


def sample(question: str, **changes) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "1 + 1 = 2"}]
    return {"messages": turns, "task": "sum"} | changes


def bomb() -> bytes:
    """An image of a hundred million black pixels."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, format="PNG")
    return buffer.getvalue()


def data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def modified(folder: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
