"""`ost compare` on a tiny workspace, as a user runs it: Prefect, DVC, MLflow on SQLite, and a judge behind a server."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from tiny_workspace import TINY, Shell, assert_stages_keep_to_dvc_yaml, make_workspace, shown_by
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from flows.workspaces import planned, seed_workspace
from ost.arms import arm_of, arms
from ost.arms.plan import BASE
from ost.data import Dataset, content_digest
from ost.errors import ConfigError
from ost.selection import kept_ids
from ost.settings import Data
from ost.store import digest, read_json, read_table
from tasks.plan import Plan
from tasks.settings import Params, load_params
from tasks.tracking import Tracker

pytestmark = pytest.mark.usefixtures("on_one_server")

OTHERS = {f"one-step-{strategy}" for strategy in ("quota", "vote", "draw", "spread")}
OTHERS |= {"one-step", "lookahead-quota", "lookahead-spread", "rated"}
OTHERS |= {"tacs", "tov-top", "in-context", "visual-gain"}  # whose stages tests/tasks/test_ratings.py runs
ARMS = [name for name in arms() if name not in OTHERS]
"""Among them `lookahead` and `lookahead-cover`, which are one as long as `select.strategy` is cover."""
SIZES = {"random-anchors": 60, "anchors": 20}
"""Samples trained on, where that is not 40; the judge and the oracle settle it themselves."""


class Seven(BaseHTTPRequestHandler):
    """A judge that says seven to everything."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "3 + 4 = 7"}
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "seven", "choices": [choice]}
        body = json.dumps(answer | {"usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Seven)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.fixture(scope="module")
def raters(processor, tmp_path_factory) -> list[str]:
    """Settings that name tiny models for DEITA."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vocabulary = len(processor.tokenizer)
    named = {"rater": LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))}
    named["embedder"] = BertModel(BertConfig(vocab_size=vocabulary, **sizes))
    folder = tmp_path_factory.mktemp("raters")
    for name, model in named.items():
        model.save_pretrained(folder / name)
        processor.tokenizer.save_pretrained(folder / name)
    return [f"deita.{name}={folder / name}" for name in named]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, prefect_home, judge, raters) -> Shell:
    settings = [*TINY, *raters, f"judge.server={judge}", "models.judge=seven", "warmup.fraction=0.4", "score.checks=0"]
    settings += ["score.lookahead.most_steps=4", "holdout.epochs=2"]
    settings += ["tracking.experiment=compared", "compute.workers=2"]
    return make_workspace(tmp_path_factory.mktemp("compared") / "workspace", prefect_home, settings)


@pytest.fixture(scope="module")
def compared(workspace) -> Shell:
    """The workspace after a comparison of every arm; what the command printed is in compare.log."""
    command = ("ost", "compare", "--name", "all", "--seeds", "3", "--fractions", "0.2", "--protocols", "B")
    command += ("--arms", ",".join(ARMS))
    (workspace.root / "compare.log").write_text(workspace.run(*command))
    return workspace


@pytest.fixture(scope="module")
def rows(compared) -> list[dict]:
    """Of what was trained."""
    return [row for row in all_rows(compared) if row["arm"] != BASE]


def all_rows(shell: Shell, name: str = "all") -> list[dict]:
    return read_json(shell.root / f"comparisons/{name}/metrics/arms.json")


def test_the_untrained_target_stands_beside_the_arms(compared):
    (base,) = [row for row in all_rows(compared) if row["arm"] == BASE]
    assert base["seed"] == 3 and base["train_flops"] == base["total_flops"] == base["steps"] == 0
    assert read_json(compared.root / "comparisons/all/summary.json")["base"] == [base["accuracy"]]


def test_every_arm_is_trained(compared, rows):
    assert sorted((row["arm"], row["protocol"], row["seed"]) for row in rows) == sorted((arm, "B", 3) for arm in ARMS)
    for row in rows:
        assert 0 <= row["accuracy"] <= 1 and row["train_flops"] > 0
        for unit in ("seconds", "flops"):
            assert row[f"total_{unit}"] == pytest.approx(row[f"select_{unit}"] + row[f"train_{unit}"])
        assert row["steps"] == 10
        assert arm_of(row["arm"]).whole or row["samples"] == SIZES.get(row["arm"], 40)
    assert [row["samples"] for row in rows if row["arm"] == "anchors"] == [SIZES["anchors"]]
    printed = (compared.root / "compare.log").read_text()
    labels = ("One step 20 %, by rank", "Lookahead 20 %, drawn", "Anchors only", "LLM-as-a-Judge", "LESS 20 %")
    for words in (*labels, "index.html"):
        assert words in printed


def test_the_whole_cost_of_choosing_is_counted(rows):
    """A score costs a warm-up and scoring; low loss the same warm-up and a pass; random nothing."""
    flops = {row["arm"]: row["select_flops"] for row in rows}
    assert {flops[arm] for arm in ("full", "random", "anchors", "random-anchors", "clean", "oracle")} == {0}
    assert flops["one-step-top"] == flops["one-step-cover"] > flops["low-loss"] > 0
    assert len({flops[arm] for arm in flops if arm.startswith("lookahead")}) == 1
    assert min(flops[arm] for arm in ("lookahead", "color", "rho")) > flops["low-loss"], (
        "two passes, and what they rest on"
    )
    assert flops["less"] > 0 and flops["deita"] > 0


def test_an_arm_keeps_what_it_says(compared):
    folder = compared.root / "comparisons/all/seed-3"
    wrong = {row["id"] for row in read_table(folder / "data/truth.parquet").to_pylist() if row["wrong"]}
    kept = {arm: set(kept_ids(read_table(folder / f"selections/{arm}.parquet"))) for arm in ("oracle", "judge")}
    assert len(kept["oracle"]) == 200 - len(wrong) and not kept["oracle"] & wrong
    said = read_table(folder / "scores/judge.parquet").to_pylist()
    assert {row["id"] for row in said if row["agrees"]} == kept["judge"]
    assert {row["reply"] for row in said} == {"3 + 4 = 7"}
    assert read_json(folder / "scores/judge.manifest.json")["metrics"]["prompt_tokens"] == 200 * 20


def test_dvc_knows_all_that_a_stage_reads(compared):
    folder = compared.root / "comparisons/all/seed-3"
    known = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    stages = set(Shell(folder).manifests())
    assert {"score-one-step", "score-lookahead", "score-color", "score-rho", "trial-anchors-B"} <= stages
    assert stages == set(known)
    assert_stages_keep_to_dvc_yaml(Shell(folder), stages)
    anchored = {stage for stage, own in known.items() if "data/anchors" in [d["path"] for d in own.get("deps", [])]}
    assert {stage for stage in anchored if stage.startswith("trial")} == {
        "trial-anchors-B",
        "trial-random-anchors-20-B",
    }


def test_arms_that_keep_the_same_are_trained_once(compared, rows):
    same = {row["subset"]: row["same_as"] for row in rows}
    assert same["lookahead-cover-20"] == "lookahead-20-B"
    assert {key for key, other in same.items() if other} == {"lookahead-cover-20"}
    folder = compared.root / "comparisons/all/seed-3"
    first, second = (f"evaluations/{subset}-B.parquet" for subset in ("lookahead-20", "lookahead-cover-20"))
    assert digest(folder / first) == digest(folder / second)
    costs = {row["subset"]: (row["train_seconds"], row["train_flops"]) for row in rows}
    assert costs["lookahead-cover-20"] == costs["lookahead-20"], "it was trained again"
    words = "Lookahead 20 %, for breadth keeps exactly what Lookahead 20 % keeps"
    assert words in shown_by(compared.root / "comparisons/all/index.html")
    assert "trained once, as lookahead-20-B" in (compared.root / "compare.log").read_text()


def test_both_scores_are_held_against_the_truth(compared):
    folder = compared.root / "comparisons/all"
    found = read_json(folder / "metrics/audit.json")["3"]
    assert found["purity"]["anchors"] is None and set(found["scores"]) == {"one-step", "lookahead"}
    detection = read_json(folder / "summary.json")["detection"]
    assert {row["score"]: row["auroc"] for row in detection} == {n: one["auroc"] for n, one in found["scores"].items()}


def test_mlflow_has_one_parent_and_comparable_children(compared, rows):
    folder = compared.root / "comparisons/all"
    tracker = Tracker(folder, load_params(folder / "params.yaml"))
    stages = [f"trial-{row['subset']}-{row['protocol']}" for row in rows]
    trials = [run for stage in stages for run in tracker.runs_with("ost.stage", stage)]
    trials = list({run.info.run_id: run for run in trials}.values())
    assert len(trials) == len(rows)
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in trials}
    (names,) = {tuple(sorted(run.data.metrics)) for run in trials}
    costs = {f"{what}_{unit}" for what in ("train", "select", "total") for unit in ("seconds", "flops")}
    assert {"accuracy", "samples", "accuracy/sum", *costs} <= set(names)
    for run in trials:
        arm, seed = run.data.params["arm"], run.data.params["seed"]
        (row,) = [
            row
            for row in rows
            if (row["arm"], str(row["seed"]), row["protocol"]) == (arm, seed, run.data.params["protocol"])
        ]
        assert {name: run.data.metrics[name] for name in ("accuracy", *costs)} == pytest.approx(
            {name: row[name] for name in ("accuracy", *costs)}
        )
        kept = kept_ids(read_table(folder / f"seed-{seed}/selections/{row['subset']}.parquet"))
        if arm_of(arm).with_anchors:
            kept += [sample.id for sample in Dataset(folder / f"seed-{seed}/data/anchors")]
        digests = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
        assert digests[row["subset"]] == content_digest(kept)
    top = tracker.client.get_run(parent)
    assert top.info.status == "FINISHED"
    summary = read_json(folder / "summary.json")
    for entry in summary["entries"]:
        assert top.data.metrics[f"accuracy/{entry['subset']}-{entry['protocol']}"] == entry["accuracy"]


def test_a_wider_comparison_trains_what_is_new_alone(compared, rows):
    """Another fraction, protocol and seed, of fewer arms; there are intervals then."""
    wider = ("--fractions", "0.2,0.5", "--seeds", "3,4", "--arms", "full,random", "--protocols", "B,A")
    printed = compared.ost("compare", "--name", "all", *wider)
    ran = [line.split()[1] for line in printed.splitlines() if line.startswith("✓")]
    assert ran.count("trial-random-50-B") == ran.count("select-random-50") == 2
    assert ran.count("trial-full-B") == ran.count("trial-random-20-B") == ran.count("world") == 1, "the new seed alone"
    found = [row for row in all_rows(compared) if row["arm"] != BASE]
    keys = [("full", "A"), ("full", "B"), *((f"random-{share}", protocol) for share in (20, 50) for protocol in "AB")]
    assert sorted((row["subset"], row["protocol"], row["seed"]) for row in found) == [
        (*key, seed) for key in keys for seed in (3, 4)
    ]
    assert [row for row in found if row in rows] == [row for row in rows if row["arm"] in ("full", "random")]
    steps = {(row["subset"], row["protocol"]): row["steps"] for row in found}
    assert [steps[key] for key in keys] == [10, 10, 2, 10, 5, 10], "protocol A keeps the epochs, B the steps"
    entries = read_json(compared.root / "comparisons/all/summary.json")["entries"]
    assert all(entry["interval"][0] <= entry["accuracy"] <= entry["interval"][1] for entry in entries)


def test_another_comparison_starts_from_what_one_has_computed(compared):
    """With another warm-up only what follows from it is computed; and an arm that fails stops no other."""
    command = ("ost", "compare", "--name", "warmer", "--like", "all", "--seeds", "3")
    command += ("--arms", "full,judge,one-step-top")
    changed = ("--set", "warmup.fraction=0.5", "--set", "judge.mode=grade", "--protocols", "B", "--fractions", "0.2")
    printed = compared.run(*command, *changed, ok=False)
    ran = {line.split()[1] for line in printed.splitlines() if line.startswith("✓")}
    assert {"warmup", "score-one-step", "score-judge", "trial-one-step-top-20-B"} <= ran
    assert not ran & {"score-lookahead", "world", "base-target", "base-proxy", "ingest"}
    assert "the subset is empty" in printed and "Traceback" not in printed
    assert [row["subset"] for row in all_rows(compared, "warmer")] == [BASE, "full", "one-step-top-20"]


def test_a_stage_that_all_arms_need_fails_with_its_own_error(compared):
    asked = ("--like", "all", "--seeds", "3", "--arms", "full,one-step-top", "--set", "world.anchors=900000")
    printed = compared.run("ost", "compare", "--name", "too-large", *asked, ok=False)
    assert "error: the anchors part of handmath has" in printed and "Traceback" not in printed and "✓" not in printed


def test_an_unknown_arm_is_told_before_any_work(workspace):
    printed = workspace.ost("compare", "--name", "never", "--arms", "full,osst", ok=False)
    assert "no arm is named 'osst'" in printed and "Traceback" not in printed and "✓" not in printed


def test_a_ceiling_needs_the_truth():
    params = Params().model_copy(update={"data": Data(truth=None)})
    with pytest.raises(ConfigError, match=r"the arm\(s\) oracle need to know which samples are wrong"):
        Plan(planned(params)).check()


def test_of_another_comparison_results_are_taken_over_and_not_its_affairs(workspace, tmp_path):
    like, folder = tmp_path / "like", tmp_path / "mine"
    shutil.copytree(workspace.root / ".dvc", like / "seed-3/.dvc")
    for path in (".ost/outbox/1.json", ".ost/lock", ".ost/download-x/file", ".ost/scores/a.parquet", "data/lock"):
        (like / "seed-3" / path).parent.mkdir(parents=True, exist_ok=True)
        (like / "seed-3" / path).write_text("{}")
    folder.mkdir()
    shutil.copyfile(workspace.root / "params.yaml", folder / "params.yaml")
    made = seed_workspace(folder, 3, like)
    found = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert {path for path in found if not path.startswith(".dvc/")} == {
        ".ost/scores/a.parquet",
        "data/lock",
        "params.yaml",
    }
