"""The flow against real servers: the contract that ties Prefect, DVC and MLflow together."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from tiny_workspace import SUBSETS, TRAININGS, Shell, assert_stages_keep_to_dvc_yaml, shown_by

from flows.parameters import set_params
from ost.selection import kept_ids
from ost.store import digest, read_json, read_table
from tasks import versioning
from tasks.settings import load_params
from tasks.tracking import Tracker

pytestmark = pytest.mark.usefixtures("on_one_server")

BEFORE = {"world", "base-target", "base-proxy", "ingest", "warmup", "score-lookahead"}
"""Stages before anything is chosen."""
REMADE = {*BEFORE, "select-lookahead-20"}
"""Stages that `dvc repro` runs again."""
CHOOSING = {f"select-{subset}" for subset in SUBSETS}
STAGES = {*BEFORE, *CHOOSING, "evaluate-base", "report"}
STAGES |= {f"{kind}-{training}" for training in TRAININGS for kind in ("sft", "evaluate")}
ARM_KEYS = {"arm", "fraction", "protocol", "seed", "accuracy", "samples", "steps"} | {
    f"{what}_{unit}" for what in ("train", "select", "total") for unit in ("seconds", "flops")
}


def locked(shell) -> dict[str, dict[str, str]]:
    """What dvc.lock holds: stage → path → md5, of inputs and outputs."""
    stages = yaml.safe_load((shell.root / "dvc.lock").read_text())["stages"]
    return {
        name: {entry["path"]: entry["md5"] for entry in [*stage.get("deps", []), *stage["outs"]]}
        for name, stage in stages.items()
    }


def test_every_stage_runs_once_and_the_arms_are_shown(curated):
    printed = (curated.root.parent / "curate.log").read_text()
    assert set(curated.manifests()) == STAGES
    for stage in STAGES:
        assert printed.count(f"✓ {stage} ") == 1, f"{stage} did not run exactly once"
    for words in ("Lookahead 20 %", "Lookahead 50 %", "Random 20 %", "Full-SFT", "report/index.html", "Traceback"):
        assert (words in printed) == (words != "Traceback"), f"{words!r}\n{printed}"


def test_arms_json_keeps_its_contract(curated):
    arms = read_json(curated.root / "metrics/arms.json")
    assert {(row["arm"], row["fraction"], row["protocol"]) for row in arms} == {
        (arm, fraction, protocol)
        for arm, fraction in (("base", 0.0), ("full", 1.0), ("random", 0.2), ("lookahead", 0.2), ("lookahead", 0.5))
        for protocol in "AB"
    }
    for row in arms:
        assert set(row) >= ARM_KEYS
        assert row["total_seconds"] == pytest.approx(row["select_seconds"] + row["train_seconds"])
        assert (row["select_flops"] > 0) == (row["arm"] == "lookahead"), (
            "choosing by utility costs its warm-up and scoring"
        )
    steps = {(row["arm"], row["fraction"], row["protocol"]): row["steps"] for row in arms}
    assert steps["lookahead", 0.2, "B"] == steps["full", 1.0, "B"] == 10
    assert (steps["lookahead", 0.2, "A"], steps["lookahead", 0.5, "A"]) == (2, 5)


def test_after_the_flow_dvc_has_nothing_to_do(curated):
    before = {name: manifest["started"] for name, manifest in curated.manifests().items()}
    assert "up to date" in curated.run("dvc", "status")
    assert "Running stage" not in curated.run("dvc", "repro")
    assert {name: manifest["started"] for name, manifest in curated.manifests().items()} == before


def test_a_second_flow_runs_nothing_and_says_what_it_reused(curated):
    """From another folder: DVC calls its stages by other names there."""
    elsewhere = Shell(curated.root.parent, curated.environment)
    printed = elsewhere.ost("curate", "--workspace", curated.root.name)
    assert "✓" not in printed
    assert all(printed.count(f"= {stage} ") == 1 for stage in STAGES)


def test_dvc_yaml_lists_what_the_stages_really_read_and_write(curated):
    assert_stages_keep_to_dvc_yaml(curated, STAGES)
    lock = locked(curated)
    for name, manifest in curated.manifests().items():
        seen = manifest["inputs"] | manifest["outputs"]
        listed = {path: md5 for path, md5 in lock[name].items() if not path.endswith("manifest.json")}
        seen = {path: md5 for path, md5 in seen.items() if not path.endswith("manifest.json")}
        assert seen == listed, f"stage {name}: dvc.yaml and tasks/ disagree, or a digest isn't DVC's"


def test_only_ingestion_and_the_audit_touch_the_truth(curated):
    readers = {
        name for name, manifest in curated.manifests().items() if any("truth" in path for path in manifest["inputs"])
    }
    assert readers == {"ingest", "report"}, "code that selects must not see what is wrong"


def test_a_new_fraction_scores_nothing_again(copied):
    scores = digest(copied.root / "scores/lookahead.parquet")
    printed = copied.ost("curate", "--set", "curate.subsets=[full, lookahead-10, lookahead-50]")
    reused = {stage for stage in STAGES if f"= {stage} " in printed}
    assert reused >= {*BEFORE, "evaluate-base", "select-full", "select-lookahead-50"}
    for stage in ("select-lookahead-10", "sft-lookahead-10-B", "evaluate-lookahead-10-A", "report"):
        assert f"✓ {stage} " in printed
    assert "sft-full-B" in reused and "sft-lookahead-50-B" in reused, "their subsets are the same"
    assert digest(copied.root / "scores/lookahead.parquet") == scores
    assert "up to date" in copied.run("dvc", "status")
    arms = read_json(copied.root / "metrics/arms.json")
    assert {row["subset"] for row in arms} == {"base", "full", "lookahead-10", "lookahead-50"}


def test_subsets_that_coincide_are_trained_once_and_said_to_be_one(copied):
    """Where the scores show no harm lookahead draws what random draws; each keeps its name, model and lineage."""
    settings = ("select.clean_below=1", "select.purity=0.01", "curate.protocols=[B]")
    settings += ("curate.subsets=[full, random-30, lookahead-30, lookahead-20]",)
    printed = copied.ost("curate", *(word for one in settings for word in ("--set", one)))
    assert "cannot tell right from wrong" in printed and "the pool shows no harm" not in printed
    kept = {
        name: kept_ids(read_table(copied.root / f"selections/{name}-30.parquet")) for name in ("random", "lookahead")
    }
    assert kept["lookahead"] == kept["random"] and len(kept["random"]) == 60
    assert "it keeps exactly what Random 30 % keeps: trained once, as random-30-B" in printed
    assert "Lookahead 30 % keeps exactly what Random 30 % keeps: one training stands for both" in printed
    assert "keeps exactly what Random 30 %" in shown_by(copied.root / "report/index.html")
    first, second = (copied.manifests()[f"sft-{name}-30-B"] for name in kept)
    assert second["seconds"] == first["seconds"] > 0, "it was trained again"
    assert (second["metrics"], second["flops"]) == (first["metrics"], first["flops"])
    assert digest(copied.root / "models/sft/lookahead-30-B") == digest(copied.root / "models/sft/random-30-B")
    same = {row["subset"]: row.get("same_as") for row in read_json(copied.root / "metrics/arms.json")}
    assert {subset: other for subset, other in same.items() if other} == {"lookahead-30": "random-30-B"}
    assert_stages_keep_to_dvc_yaml(copied, copied.declared())
    assert "up to date" in copied.run("dvc", "status")
    tracker = Tracker(copied.root, load_params(copied.root / "params.yaml"))
    versions = [tracker.aliased(f"{name}-30-B") for name in kept]
    assert len({version.version for version in versions}) == 2
    assert len({version.tags["ost.digest"] for version in versions}) == 1
    lineage = copied.ost("lineage", "ost-target@lookahead-30-B")
    assert "selections/lookahead-30.parquet" in lineage and "random" not in lineage
    used = copied.ost("lineage", kept["random"][0])
    assert "(random-30-B, accuracy" in used and "(lookahead-30-B, accuracy" in used


@pytest.fixture(scope="module")
def remade(curated, tmp_path_factory) -> tuple[Shell, str]:
    """The workspace after `dvc repro` of a subset, from nothing but the record; and what that printed."""
    folder = tmp_path_factory.mktemp("remade") / "workspace"
    shell = Shell(Path(shutil.copytree(curated.root, folder, symlinks=True)), curated.environment)
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / ".dvc/cache")
    for name in ("world", "data", "models", "scores", "selections", "evaluations", "report", "metrics"):
        shutil.rmtree(folder / name)
    return shell, shell.run("dvc", "repro", "select-lookahead-20")


def test_from_nothing_dvc_makes_the_same_bytes_and_the_flow_would_reuse_them(remade, curated):
    shell, printed = remade
    for stage in REMADE:
        assert f"✓ {stage} " in printed
    for path in ("scores/lookahead.parquet", "selections/lookahead-20.parquet"):
        assert digest(shell.root / path) == digest(curated.root / path), (
            f"{path}: the flow and `dvc repro` leave different bytes"
        )
    assert versioning.stale_stages(shell.root) == STAGES - REMADE, "the flow would run again what `dvc repro` has made"


def test_a_stage_run_by_dvc_is_recorded_as_dvcs(remade):
    root = remade[0].root
    tracker = Tracker(root, load_params(root / "params.yaml"))
    parents = set()
    for stage in REMADE:
        newest, older = tracker.runs_with("ost.stage", stage)
        parents.add(newest.data.tags["mlflow.parentRunId"])
        assert newest.data.tags["ost.flow_run"] == ""
        assert len(older.data.tags["ost.flow_run"]) == 36
        ours, theirs = (
            {name: md5 for name, md5 in run.data.tags.items() if name.startswith("dvc.out.")} for run in (newest, older)
        )
        timed = {name for name in theirs if name.startswith("dvc.out.metrics/")}
        assert ours.keys() == theirs.keys() and ours.items() >= {(n, theirs[n]) for n in theirs.keys() - timed}, stage
    (parent,) = (tracker.client.get_run(one) for one in parents)
    assert parent.data.tags["ost.orchestrator"] == "dvc"
    assert parent.info.status == "RUNNING", "later stages of the same repro would find no parent to join"


def test_a_killed_flow_goes_on_after_its_last_finished_stage(copied, monkeypatch):
    """The trainings are stale; the flow is killed once one is finished and the only worker has begun another."""
    monkeypatch.delenv("PREFECT_API_URL")
    set_params(copied.root / "params.yaml", ["sft.learning_rate=0.002", "curate.protocols=[B]"])
    trainings = {f"sft-{training}" for training in TRAININGS if training.endswith("-B")}

    def finished() -> set[str]:
        stages = yaml.load((copied.root / "dvc.lock").read_text(), yaml.CSafeLoader)["stages"]  # asked often
        done = trainings & set(stages)
        return {name for name in done if stages[name]["params"]["params.yaml"]["sft"]["learning_rate"] == 0.002}

    process = copied.start("ost", "curate")
    wait_for(finished, "one training finished, the next begun", process)
    children, workers = children_of(process.pid), workers_of(process.pid)
    assert workers, "there is no worker to be orphaned"
    process.kill()
    process.wait()
    try:
        wait_for(lambda: not any(alive(pid) for pid in children), "the end of all that it started", seconds=30)
    finally:
        for pid in filter(alive, children):
            os.kill(pid, signal.SIGKILL)
    done = finished()
    assert done < trainings
    assert versioning.stale_stages(copied.root) >= trainings - done, (
        "an unfinished training was taken for a finished one"
    )
    printed = copied.ost("curate")
    reused = {name for name in STAGES if f"= {name} " in printed}
    untouched = {*BEFORE, *CHOOSING, "evaluate-base"}
    assert reused - {f"evaluate-{training}" for training in TRAININGS} == untouched | done, "a finished stage was lost"
    assert "up to date" in copied.run("dvc", "status")
    assert not [path for path in copied.root.rglob("*.part") if ".dvc" not in path.parts]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_flow_that_is_told_to_end_ends_at_once_with_all_that_it_started(number, copied, monkeypatch):
    """By a Ctrl-C, or `timeout`, which reach its workers and Prefect's server as well."""
    monkeypatch.delenv("PREFECT_API_URL")
    set_params(copied.root / "params.yaml", ["sft.steps=1000000"])
    process = copied.start("ost", "curate")
    wait_for(lambda: workers_of(process.pid), "a worker", process)
    children = children_of(process.pid)
    os.killpg(process.pid, number)
    try:
        assert process.wait(timeout=30) == 130
        said = (copied.root / "start.log").read_text()
        assert "the same command goes on" in said and "httpx" not in said and "EventsWorker" not in said, said
        wait_for(lambda: not any(alive(pid) for pid in children), "the end of its workers and servers", seconds=20)
    finally:
        for pid in filter(alive, [process.pid, *children]):
            os.kill(pid, signal.SIGKILL)


def workers_of(pid: int) -> list[int]:
    """Process ids of a flow's workers."""
    return [child for child in children_of(pid) if "spawn_main" in command_of(child)]


def command_of(pid: int) -> str:
    """What a process was started with; empty where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> list[int]:
    """Process ids of a process's children."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, what: str, process=None, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"the flow ended before: {what}"
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.2)
