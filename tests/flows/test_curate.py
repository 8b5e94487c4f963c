"""The flow against real servers: the contract that ties Prefect, DVC and MLflow together."""

import shutil
import time
from pathlib import Path

import pytest
import yaml
from tiny_workspace import TINY, make_workspace

from ost.store import digest, read_json
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
    for words in ("OST top 20 %", "OST top 50 %", "Random 20 %", "Full-SFT", "report/index.html", "Traceback"):
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
    printed = curated.run("ost", "curate")
    assert "✓" not in printed
    assert all(f"= {stage} " in printed for stage in STAGES)


def test_dvc_yaml_lists_what_the_stages_really_read_and_write(curated):
    lock = locked(curated)
    for name, manifest in curated.manifests().items():
        seen = manifest["inputs"] | manifest["outputs"]
        seen.pop("world/truth.parquet", None) if name == "ingest" else None  # named by a parameter; may be null
        listed = {path: md5 for path, md5 in lock[name].items() if not path.endswith("manifest.json")}
        seen = {path: md5 for path, md5 in seen.items() if not path.endswith("manifest.json")}
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


def test_from_nothing_dvc_makes_the_same_bytes_and_the_flow_reuses_them(copied):
    paths = ["scores/utility.parquet", *(f"selections/{arm}.parquet" for arm in ("full", "random", "ost", "ost-wide"))]
    before = {path: digest(copied.root / path) for path in paths}
    (copied.root / "dvc.lock").unlink()
    shutil.rmtree(copied.root / ".dvc/cache")
    for folder in ("world", "data", "models", "scores", "selections"):
        shutil.rmtree(copied.root / folder)
    copied.run("dvc", "repro", "select")
    assert {path: digest(copied.root / path) for path in paths} == before
    assert "= select " in copied.run("ost", "curate")


def test_a_killed_flow_goes_on_after_its_last_finished_stage(tmp_path, prefect_home):
    shorter = [value for value in TINY if not value.startswith("sft.steps")]
    shell = make_workspace(tmp_path / "workspace", prefect_home, [*shorter, "sft.steps=200"])
    process = shell.start("ost", "curate")
    wait_for(lambda: "  sft@" in lock_text(shell), "one sft finished, the next begun", process)
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers), "orphaned workers gone")
    done = {name for name in STAGES if f"  {name}:" in lock_text(shell)}
    assert done >= {"world", "base@target", "base@proxy", "ingest", "warmup", "score", "select"}
    assert "report" not in done
    printed = shell.run("ost", "curate")
    assert {name for name in STAGES if f"= {name} " in printed} == done, (
        "a finished stage was lost, or trusted unfinished"
    )
    assert "up to date" in shell.run("dvc", "status")


def lock_text(shell) -> str:
    path = shell.root / "dvc.lock"
    return path.read_text() if path.exists() else ""


def children_of(pid: int) -> list[int]:
    """Process ids of a process's children."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_for(condition, what: str, process=None) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process is None or process.poll() is None, f"the flow ended before: {what}"
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.2)
