"""What MLflow holds after a curation: enough to walk from any model to commit, data and flow, by DVC's digests."""

import pytest
import yaml
from tiny_workspace import TRAININGS

from flows.parameters import set_params
from flows.session import Session
from ost.data import Dataset, content_digest
from ost.errors import WorkspaceError
from ost.store import read_json
from tasks import versioning
from tasks.settings import load_params
from tasks.tracking import Tracker


@pytest.fixture(scope="module")
def tracker(curated) -> Tracker:
    return Tracker(curated.root, load_params(curated.root / "params.yaml"))


@pytest.fixture(scope="module")
def children(curated, tracker) -> dict:
    """The child run of each stage."""
    return {stage: tracker.runs_with("ost.stage", stage) for stage in curated.manifests()}


@pytest.fixture(scope="module")
def parent(tracker, children):
    (of,) = {run.data.tags["mlflow.parentRunId"] for runs in children.values() for run in runs}
    return tracker.client.get_run(of)


def test_every_stage_is_one_finished_child_run_of_one_finished_parent(children, parent):
    assert {stage: len(runs) for stage, runs in children.items()} == dict.fromkeys(children, 1)
    assert {run.info.status for runs in children.values() for run in runs} == {"FINISHED"}
    assert (parent.info.status, parent.data.tags["ost.orchestrator"]) == ("FINISHED", "prefect")
    assert parent.data.tags["ost.reused"] == "", "a first run reused something"


def test_the_tags_are_what_dvc_lock_says(curated, children):
    lock = yaml.safe_load((curated.root / "dvc.lock").read_text())["stages"]
    for stage, (run,) in children.items():
        for way, side in (("in", "deps"), ("out", "outs")):
            listed = {entry["path"]: entry["md5"] for entry in lock[stage].get(side, [])}
            prefix = f"dvc.{way}."
            tags = {name.removeprefix(prefix): md5 for name, md5 in run.data.tags.items() if name.startswith(prefix)}
            own = {path for path in listed.keys() - tags.keys() if way == "out" and path.endswith("manifest.json")}
            assert len(own) == (way == "out"), f"{stage}: an output besides the manifest is not in the record: {own}"
            assert listed.items() - {(path, listed[path]) for path in own} == tags.items(), (
                f"{stage}: MLflow's {way}puts are not DVC's, so lineage leads nowhere"
            )


def test_every_run_carries_commit_and_flow(curated, children, parent):
    commit = curated.run("git", "rev-parse", "HEAD").strip()
    flow = parent.data.tags["ost.flow_run"]
    assert len(flow) == 36, f"no Prefect flow-run id: {flow!r}"
    for stage, (run,) in children.items():
        assert run.data.tags["mlflow.source.git.commit"] == commit, stage
        assert run.data.tags["ost.flow_run"] == flow, stage


def test_every_run_has_its_parameters_and_what_it_cost(children):
    for stage, (run,) in children.items():
        assert run.data.params["select.strategy"] == "cover", stage
        assert run.data.metrics["seconds"] > 0, stage
        trains = stage.startswith(("sft-", "base-")) or stage in ("warmup", "score-lookahead")
        assert (run.data.metrics["flops"] > 0) == trains, f"{stage}: FLOPs {run.data.metrics['flops']}"


def test_datasets_carry_our_digest_of_the_samples(curated, children):
    def digest(name: str) -> str:
        return content_digest(sample.id for sample in Dataset(curated.root / f"data/{name}"))

    def recorded(stage: str) -> dict[str, str]:
        (run,) = children[stage]
        return {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}

    assert recorded("score-lookahead") == {name: digest(name) for name in ("pool", "anchors")}
    assert recorded("evaluate-lookahead-20-B") == {"benchmark": digest("benchmark")}
    assert recorded("sft-full-B") == {"full": digest("pool")}
    assert recorded("sft-lookahead-20-B")["lookahead-20"] not in ("", digest("pool")), (
        "a subset was recorded as the whole pool"
    )


def test_every_training_is_one_registered_model_with_its_accuracy(curated, tracker, children):
    versions = tracker.model_versions()
    assert sorted(version.tags["ost.run"] for version in versions) == sorted(TRAININGS)
    for version in versions:
        run = version.tags["ost.run"]
        assert version.run_id == children[f"sft-{run}"][0].info.run_id
        accuracy = read_json(curated.root / f"evaluations/{run}.json")["accuracy"]
        assert float(version.tags["ost.accuracy"]) == pytest.approx(accuracy, abs=1e-4), f"{run}: another's accuracy"


SELECT = "select-lookahead-20"


@pytest.fixture
def own_record(copied, monkeypatch) -> Tracker:
    """The record of a copy of the workspace, which may be changed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Tracker(copied.root, load_params(copied.root / "params.yaml"))


def test_a_stage_that_is_killed_before_dvc_knows_of_it_is_recorded_all_the_same(copied, own_record, monkeypatch):
    """The other way round it would be up to date, and nobody would ever record it."""
    before = len(own_record.runs_with("ost.stage", SELECT))
    set_params(copied.root / "params.yaml", ["select.purity=0.5"])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(versioning, "commit", killed)
        with pytest.raises(KeyboardInterrupt), Session(copied.root) as session:
            session.run(SELECT)
    with Session(copied.root) as session:
        assert session.run(SELECT), "DVC took a stage for up to date that was never committed"
    assert len(own_record.runs_with("ost.stage", SELECT)) == before + 2


def test_what_ran_with_other_parameters_than_params_yaml_has_is_not_committed(copied, own_record, monkeypatch):
    before = len(own_record.runs_with("ost.stage", SELECT))
    with Session(copied.root) as session:
        run = session._workers.run

        def edited_meanwhile(stage: str) -> dict:
            manifest = run(stage)
            set_params(copied.root / "params.yaml", [edit])
            return manifest

        monkeypatch.setattr(session._workers, "run", edited_meanwhile)
        edit = "sft.steps=9"
        session.run(SELECT, anew=True)  # it reads none of sft
        edit = "select.purity=0.5"
        with pytest.raises(WorkspaceError, match=rf"params.yaml changed while {SELECT} ran: select.*: run again"):
            session.run(SELECT, anew=True)
    assert not versioning.is_current(copied.root, SELECT)
    assert len(own_record.runs_with("ost.stage", SELECT)) == before + 1, "what is not kept was recorded"
