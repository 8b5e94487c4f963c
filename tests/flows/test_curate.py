"""The flow against real servers: the contract that ties Prefect, DVC and MLflow together."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from tiny_workspace import Shell

from flows.parameters import set_params
from ost.store import digest, read_json
from tasks import versioning
from tasks.pipeline import NOWHERE
from tasks.runs import RUNS

STAGES = {"world", "base@target", "base@proxy", "ingest", "warmup", "score", "select", "evaluate@base", "report"}
STAGES |= {f"{kind}@{run.key}" for run in RUNS for kind in ("sft", "evaluate")}
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
    for words in ("OST 20 %", "OST 50 %", "Random 20 %", "Full-SFT", "report/index.html", "Traceback"):
        assert (words in printed) == (words != "Traceback"), f"{words!r}\n{printed}"


def test_arms_json_keeps_its_contract(curated):
    arms = read_json(curated.root / "metrics/arms.json")
    assert {(row["arm"], row["fraction"], row["protocol"]) for row in arms} == {
        (arm, fraction, protocol)
        for arm, fraction in (("base", 0.0), ("full", 1.0), ("random", 0.2), ("ost", 0.2), ("ost", 0.5))
        for protocol in "AB"
    }
    for row in arms:
        assert set(row) >= ARM_KEYS
        assert row["total_seconds"] == pytest.approx(row["select_seconds"] + row["train_seconds"])
        assert (row["select_flops"] > 0) == (row["arm"] == "ost"), "choosing costs OST its warm-up and scoring"
    steps = {(row["arm"], row["fraction"], row["protocol"]): row["steps"] for row in arms}
    assert steps["ost", 0.2, "B"] == steps["full", 1.0, "B"] == 10
    assert (steps["ost", 0.2, "A"], steps["ost", 0.5, "A"]) == (2, 5)


def test_after_the_flow_dvc_has_nothing_to_do(curated):
    before = {name: manifest["started"] for name, manifest in curated.manifests().items()}
    assert "up to date" in curated.run("dvc", "status")
    assert "Running stage" not in curated.run("dvc", "repro")
    assert {name: manifest["started"] for name, manifest in curated.manifests().items()} == before


def test_a_second_flow_runs_nothing_and_says_what_it_reused(curated):
    """From another folder: DVC calls its stages by other names there."""
    elsewhere = Shell(curated.root.parent, curated.environment)
    printed = elsewhere.run("ost", "curate", "--workspace", curated.root.name)
    assert "✓" not in printed
    assert all(printed.count(f"= {stage} ") == 1 for stage in STAGES)


def test_dvc_yaml_lists_what_the_stages_really_read_and_write(curated):
    lock = locked(curated)
    for name, manifest in curated.manifests().items():
        seen = manifest["inputs"] | manifest["outputs"]
        seen.pop("world/truth.parquet", None) if name == "ingest" else None  # named by a parameter; may be null
        listed = {path: md5 for path, md5 in lock[name].items() if not path.endswith("manifest.json")}
        seen = {path: md5 for path, md5 in seen.items() if not path.endswith("manifest.json")}
        listed.pop(NOWHERE, None)  # stands for a folder that there is not
        assert seen == listed, f"stage {name}: dvc.yaml and tasks/ disagree, or a digest isn't DVC's"


def test_only_ingestion_and_the_audit_touch_the_truth(curated):
    readers = {
        name for name, manifest in curated.manifests().items() if any("truth" in path for path in manifest["inputs"])
    }
    assert readers == {"ingest", "report"}, "code that selects must not see what is wrong"


def test_a_new_fraction_scores_nothing_again(copied):
    scores = digest(copied.root / "scores/utility.parquet")
    printed = copied.run("ost", "curate", "--set", "select.fraction=0.1")
    reused = {stage for stage in STAGES if f"= {stage} " in printed}
    assert reused >= {"world", "base@target", "base@proxy", "ingest", "warmup", "score", "evaluate@base"}
    assert {"✓ select ", "✓ sft@ost-B ", "✓ report "} <= {f"✓ {stage} " for stage in STAGES - reused}
    assert "sft@full-B" in reused and "sft@ost-wide-B" in reused, "their subsets are the same"
    assert digest(copied.root / "scores/utility.parquet") == scores
    assert "up to date" in copied.run("dvc", "status")


def test_from_nothing_dvc_makes_the_same_bytes_and_the_flow_would_reuse_them(copied):
    paths = ["scores/utility.parquet", *(f"selections/{arm}.parquet" for arm in ("full", "random", "ost", "ost-wide"))]
    before = {path: (copied.root / path).read_bytes() for path in paths}
    (copied.root / "dvc.lock").unlink()
    shutil.rmtree(copied.root / ".dvc/cache")
    for folder in ("world", "data", "models", "scores", "selections", "evaluations", "report", "metrics"):
        shutil.rmtree(copied.root / folder)
    copied.run("dvc", "repro", "select")
    for path, content in before.items():
        assert (copied.root / path).read_bytes() == content, f"{path}: the flow and `dvc repro` leave different bytes"
    made = {"world", "base@target", "base@proxy", "ingest", "warmup", "score", "select"}
    assert versioning.stale_stages(copied.root) == STAGES - made, "the flow would run again what `dvc repro` has made"


def test_a_killed_flow_goes_on_after_its_last_finished_stage(copied):
    """The trainings are stale; the flow is killed once one is finished and the only worker has begun another."""
    set_params(copied.root / "params.yaml", ["sft.learning_rate=0.002"])
    trainings = {f"sft@{run.key}" for run in RUNS}

    def finished() -> set[str]:
        lock = yaml.safe_load((copied.root / "dvc.lock").read_text())  # none while DVC writes the file anew
        stages = lock["stages"] if lock else {}
        done = trainings & set(stages)
        return {name for name in done if stages[name]["params"]["params.yaml"]["sft"]["learning_rate"] == 0.002}

    def finished_so_far() -> set[str]:
        try:
            return finished()
        except (KeyError, TypeError, yaml.YAMLError):  # DVC has written half of the file
            return set()

    process = copied.start("ost", "curate")
    wait_for(finished_so_far, "one training finished, the next begun", process)
    children, workers = children_of(process.pid), workers_of(process.pid)
    assert workers, "there is no worker to be orphaned"
    process.kill()
    process.wait()
    try:
        wait_for(lambda: not any(alive(pid) for pid in workers), "the end of the orphaned workers", seconds=20)
    finally:
        for pid in filter(alive, children):  # Prefect's embedded server outlives a flow that was killed
            os.kill(pid, signal.SIGKILL)
    done = finished()
    assert done < trainings
    assert versioning.stale_stages(copied.root) >= trainings - done, (
        "an unfinished training was taken for a finished one"
    )
    printed = copied.run("ost", "curate")
    reused = {name for name in STAGES if f"= {name} " in printed}
    untouched = {"world", "base@target", "base@proxy", "ingest", "warmup", "score", "select", "evaluate@base"}
    assert reused - {f"evaluate@{run.key}" for run in RUNS} == untouched | done, "a finished stage was lost"
    assert "up to date" in copied.run("dvc", "status")
    assert not [path for path in copied.root.rglob("*.part") if ".dvc" not in path.parts]


def test_a_flow_that_is_told_to_end_ends_at_once_with_all_that_it_started(copied):
    set_params(copied.root / "params.yaml", ["sft.steps=1000000"])
    process = copied.start("ost", "curate")
    wait_for(lambda: workers_of(process.pid), "a worker", process)
    children = children_of(process.pid)
    process.terminate()
    try:
        process.wait(timeout=30)
        wait_for(lambda: not any(alive(pid) for pid in children), "the end of its workers and servers", seconds=20)
    finally:
        for pid in filter(alive, [process.pid, *children]):
            os.kill(pid, signal.SIGKILL)


def workers_of(pid: int) -> list[int]:
    """Process ids of a flow's workers."""
    return [child for child in children_of(pid) if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


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
