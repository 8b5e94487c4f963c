"""`ost recurate` on data that keeps arriving: real Prefect, DVC and MLflow, run in this process."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from tiny_workspace import RECURATED, Shell, make_workspace

from flows.parameters import set_params
from flows.recurate import PROMOTED, recurate
from flows.session import Session
from ost.comparison.challenge import Gain
from ost.data import Sample, chat, write_samples
from ost.errors import WorkspaceError
from ost.store import digest, read_json, read_table
from ost.worlds import handmath
from tasks import versioning
from tasks.pipeline import write_pipeline
from tasks.record.champion import CHAMPION, ChampionChanged, Verdict, challenge
from tasks.record.recuration import FOLDER, STEPS, Recuration, changes_between
from tasks.settings import load_params
from tasks.tracking import Tracker

pytestmark = pytest.mark.usefixtures("on_one_server")

SETTINGS = [
    "data.pool=incoming",
    "data.anchors=anchors.parquet",
    "data.benchmark=benchmark.parquet",
]


@pytest.fixture(scope="module")
def first(tmp_path_factory, prefect_home, on_one_server) -> Shell:
    """A workspace whose pool is a folder that files arrive in, after its first run; not to be changed."""
    shell = make_workspace(tmp_path_factory.mktemp("recurated") / "workspace", prefect_home, [*RECURATED, *SETTINGS])
    arrive(shell.root, "2026-11-01", handmath.draw("pool", 200, 0))
    for split, count in (("anchors", 20), ("benchmark", 60)):
        write_samples(shell.root / f"{split}.parquet", map(handmath.to_sample, handmath.draw(split, count, 0)))
    assert recurate(str(shell.root))["changed"]
    return shell


@pytest.fixture
def workspace(first, tmp_path) -> Path:
    """A copy, to be changed at will."""
    return copy_to(tmp_path / "workspace", first.root)


@pytest.fixture(scope="module")
def second(first, tmp_path_factory) -> tuple[Shell, dict]:
    """A copy after a run that twenty samples had come for, and that run's summary; not to be changed."""
    shell = Shell(copy_to(tmp_path_factory.mktemp("again") / "workspace", first.root), first.environment)
    arrive(shell.root, "2026-11-08", handmath.draw("pool", 20, 0, stream=1))
    shell.commit("new data")
    return shell, recurate(str(shell.root))


@pytest.fixture
def later(second, tmp_path) -> Path:
    """A copy of that one, to be changed at will."""
    return copy_to(tmp_path / "workspace", second[0].root)


def copy_to(folder: Path, workspace: Path) -> Path:
    """A copy of a workspace, with a record of its own."""
    shutil.copytree(workspace, folder, symlinks=True)
    set_params(folder / "params.yaml", [f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"])
    return folder


def arrive(root: Path, name: str, problems: list[handmath.Problem]) -> None:
    write_samples(root / f"incoming/{name}.parquet", map(handmath.to_sample, problems))


def tracker(root: Path) -> Tracker:
    return Tracker(root, load_params(root / "params.yaml"))


def shards(root: Path) -> set[Path]:
    """Shards of scores in a workspace, as seen from it."""
    return {path.relative_to(root) for path in (root / ".ost/scores").rglob("*.parquet")}


def state(root: Path) -> dict:
    """All that a run could change."""
    record = tracker(root)
    runs = record.client.search_runs([record.experiment])
    files = ("dvc.lock", "dvc.yaml", "params.yaml")
    return {
        "files": {name: digest(root / name) for name in files},
        "runs": sorted(run.info.run_id for run in runs),
        "versions": len(record.model_versions()),
        "recurations": sorted(path.name for path in (root / FOLDER).iterdir()),
    }


def test_the_first_run_makes_a_champion_and_keeps_the_proxy(first):
    (folder,) = (first.root / FOLDER).iterdir()
    summary = read_json(folder / "summary.json")
    assert summary["counts"] == dict.fromkeys(summary["counts"], 0) | {"new": 200, "entered": 40}
    assert summary["warmed_up"] == folder.name and summary["why_warmed_up"] == ["this is the first run"]
    assert summary["challenge"]["promoted"]
    assert str(tracker(first.root).aliased(CHAMPION).version) == "1"


def test_without_new_data_nothing_changes(first):
    before = state(first.root)
    summary = recurate(str(first.root))
    assert not summary["changed"] and summary["samples"] == 200
    assert state(first.root) == before


def test_a_parameter_that_the_page_has_got_since_is_not_overlooked(workspace):
    """A short params.yaml names few; DVC is told of those alone, when dvc.yaml was made."""
    page = yaml.safe_load((workspace / "params.yaml").read_text())
    select = page.pop("select")
    (workspace / "params.yaml").write_text(yaml.safe_dump(page))
    write_pipeline(workspace)
    page["select"] = select | {"purity": 0.5}
    (workspace / "params.yaml").write_text(yaml.safe_dump(page))
    assert Recuration(workspace, load_params(workspace / "params.yaml")).unchanged() is None


def test_a_new_file_costs_its_own_samples_and_no_warm_up(first, second):
    root, summary = second[0].root, second[1]
    assert digest(root / "models/proxy-warm") == digest(first.root / "models/proxy-warm")
    (shard,) = shards(root) - shards(first.root)
    new = set(read_table(root / shard)["id"].to_pylist())
    changes = read_table(root / FOLDER / summary["name"] / "changes.parquet")
    assert summary["counts"]["new"] == len(new) == 20
    assert set(changes.filter(pc.equal(changes["change"], "new"))["id"].to_pylist()) == new
    assert summary["why_warmed_up"] == [] and summary["warmed_up"] != summary["name"]
    assert summary["counts"]["entered"] - summary["counts"]["left"] == 4, "20 % of 20 more"
    assert summary["challenge"]["why"]
    assert state(root)["versions"] == 2, "the challenger is registered, whether it won or not"
    again = state(root)
    assert not recurate(str(root))["changed"]
    assert state(root) == again


def test_a_run_that_keeps_its_proxy_leaves_git_and_dvc_with_nothing_to_do(second):
    shell = second[0]
    changed = {line[3:] for line in shell.run("git", "status", "--porcelain").splitlines()}
    figures = {"metrics/ingest.json", "metrics/score-lookahead.json"}  # which DVC leaves to git
    assert "dvc.lock" in changed and changed <= {"dvc.lock", *figures}, "a run has changed what a user writes"
    before = state(shell.root), {stage: manifest["started"] for stage, manifest in shell.manifests().items()}
    evaluated = f"evaluate-{load_params(shell.root / 'params.yaml').recurate.training}"
    assert "up to date" in shell.run("dvc", "status", "--with-deps", evaluated)
    assert "Running stage" not in shell.run("dvc", "repro", evaluated)
    assert before == (state(shell.root), {stage: one["started"] for stage, one in shell.manifests().items()})


def test_what_is_withdrawn_leaves(workspace):
    gone = handmath.to_sample(handmath.draw("pool", 200, 0)[0]).id
    arrive(workspace, "2026-11-01", handmath.draw("pool", 200, 0)[1:])
    summary = recurate(str(workspace))
    assert summary["counts"]["gone"] == 1 and summary["samples"] == 199
    changes = read_table(workspace / FOLDER / summary["name"] / "changes.parquet").to_pylist()
    assert {"id": gone, "change": "gone"} in changes


def test_anchors_that_the_proxy_does_not_know_make_it_warm_up_anew(workspace):
    anchors = [handmath.to_sample(problem) for problem in handmath.draw("anchors", 20, 0)]
    odd = [Sample(s.images, chat(s.question, "max " * 12, images=len(s.images)), s.task) for s in anchors]
    write_samples(workspace / "anchors.parquet", odd)
    set_params(workspace / "params.yaml", ["recurate.anchor_loss_rise=0.0001"])
    arrive(workspace, "2026-11-08", handmath.draw("pool", 20, 0, stream=1))
    summary = recurate(str(workspace))
    (reason,) = summary["why_warmed_up"]
    assert "its loss on the anchors has risen" in reason
    assert summary["warmed_up"] == summary["name"]
    manifest = read_json(workspace / "models/proxy-warm.manifest.json")
    assert manifest["inputs"]["data/pool"] == digest(workspace / "data/pool"), "still of the old pool"


def test_a_proxy_whose_parameters_or_base_changed_is_warmed_up_anew(workspace):
    proxy = digest(workspace / "models/proxy-warm")
    set_params(workspace / "params.yaml", ["warmup.learning_rate=0.0001", "base.proxy_steps=5"])
    summary = recurate(str(workspace))
    assert summary["changed"]
    assert summary["why_warmed_up"] == ["it depends on models/proxy, warmup, which changed"], "either would do"
    assert digest(workspace / "models/proxy-warm") != proxy


@pytest.mark.parametrize("path", ["models/proxy-warm", "models/proxy-warm.manifest.json"])
def test_a_proxy_whose_files_were_replaced_is_warmed_up_anew(path, workspace):
    """Even once DVC has been told to take what is there: its record of a proxy that is kept is of the pool as it is."""
    proxy = digest(workspace / "models/proxy-warm")
    replaced = workspace / path
    if replaced.is_file():
        replaced.unlink()
    else:
        shutil.rmtree(replaced)
        shutil.copytree(workspace / "models/proxy", replaced)
        versioning.commit(workspace, "warmup")
    summary = recurate(str(workspace))
    assert summary["changed"] and summary["why_warmed_up"] == [f"it depends on {path}, which changed"]
    assert digest(workspace / "models/proxy-warm") == proxy, "the same warm-up gives the same proxy"


def test_a_proxy_is_kept_for_what_it_was_warmed_up_with_and_not_for_what_dvc_noted_since(later):
    """Two runs keep it, the second after the first has DVC note the new pool; then its parameters change."""
    arrive(later, "2026-11-15", handmath.draw("pool", 10, 0, stream=2))
    assert recurate(str(later))["why_warmed_up"] == []
    set_params(later / "params.yaml", ["sft.batch_size=4"])
    assert recurate(str(later))["why_warmed_up"] == ["it depends on sft.batch_size, which changed"]


def test_a_run_whose_record_was_deleted_makes_the_proxy_warm_up_anew(second, later):
    shutil.rmtree(later / FOLDER / second[1]["warmed_up"])
    arrive(later, "2026-11-15", handmath.draw("pool", 20, 0, stream=2))
    third = recurate(str(later))
    (reason,) = third["why_warmed_up"]
    assert "record of the run that did so before is gone" in reason and third["warmed_up"] == third["name"]


def test_a_run_that_was_stopped_before_its_end_is_finished_by_the_next(workspace, monkeypatch):
    arrive(workspace, "2026-11-08", handmath.draw("pool", 20, 0, stream=1))

    with monkeypatch.context() as patch:
        patch.setattr("flows.recurate.challenge", stop)
        with pytest.raises(KeyboardInterrupt):
            recurate(str(workspace))
    assert len(state(workspace)["recurations"]) == 1
    summary = recurate(str(workspace))
    assert summary["changed"] and summary["counts"]["new"] == 20
    assert state(workspace)["versions"] == 2, "what was trained already was trained again"


@pytest.fixture(scope="module")
def decided(first, tmp_path_factory) -> Shell:
    """A copy whose run was stopped once it had decided for a new champion; not to be changed."""
    shell = Shell(copy_to(tmp_path_factory.mktemp("decided") / "workspace", first.root), first.environment)
    set_params(shell.root / "params.yaml", ["recurate.publish=s3://ost/selections"])
    arrive(shell.root, "2026-11-08", handmath.draw("pool", 20, 0, stream=1))

    def decide(*arguments) -> Verdict:
        return replace(challenge(*arguments), gain=Gain(0.1, 0.9, (0.7, 0.9), 60, 0.97))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.recurate.challenge", decide)
        patch.setattr("flows.recurate.promote", stop)
        with pytest.raises(KeyboardInterrupt):
            recurate(str(shell.root))
    return shell


def stop(*arguments):
    """What a kill is to the run: it goes no further."""
    raise KeyboardInterrupt


@pytest.fixture
def effects(decided, tmp_path, monkeypatch) -> "Effects":
    found = Effects(copy_to(tmp_path / "workspace", decided.root))
    monkeypatch.setattr("tasks.record.recuration.publish_files", lambda files, _, name: found.uploaded.append(files))
    monkeypatch.setattr("flows.recurate.emit_event", lambda event, id, **_: found.told.append((event, id)))
    return found


@dataclass
class Effects:
    """A copy of that workspace, and what has left it since."""

    root: Path
    uploaded: list[dict[str, Path]] = field(default_factory=list)
    told: list[tuple] = field(default_factory=list)

    @property
    def logged(self) -> list[str]:
        return [run.data.tags["ost.verdict"] for run in tracker(self.root).runs_with("ost.verdict", self.why)]

    @property
    def why(self) -> str:
        return Recuration(self.root, load_params(self.root / "params.yaml")).past().summary["challenge"]["why"]


@pytest.mark.parametrize("last", STEPS)
def test_wherever_a_run_is_killed_once_it_is_decided_the_next_comes_to_the_same_end(effects, monkeypatch, last):
    """Killed when a step is done and before that is noted: it is done again, and people are told twice at most."""
    root, strike_off = effects.root, Recuration.strike_off
    assert str(tracker(root).aliased(CHAMPION).version) == "1", "the fixture was not stopped in time"

    def killed(self, name: str, step: str) -> None:
        if step == last:
            raise KeyboardInterrupt
        strike_off(self, name, step)

    with monkeypatch.context() as patch:
        patch.setattr(Recuration, "strike_off", killed)
        with pytest.raises(KeyboardInterrupt):
            recurate(str(root))
    summary = recurate(str(root))
    assert summary["changed"] and summary["challenge"]["promoted"] and summary["counts"]["new"] == 20
    assert str(tracker(root).aliased(CHAMPION).version) == "2"
    assert {event for event, _ in effects.told} == {PROMOTED}, "nobody was told of the new champion"
    assert len({one for _, one in effects.told}) == 1 and len(effects.told) <= 2, "Prefect cannot see that it is one"
    assert effects.logged, "MLflow was not told"
    published = effects.uploaded[-1]
    assert {"summary.json", "changes.parquet", "selections/lookahead-20.parquet"} < published.keys()
    assert (
        published["selections/lookahead-20.parquet"].read_bytes()
        == (root / "selections/lookahead-20.parquet").read_bytes()
    )
    before = state(root)
    assert not recurate(str(root))["changed"] and state(root) == before


def test_what_is_new_since_a_run_was_killed_is_the_next_ones_affair(effects):
    arrive(effects.root, "2026-11-15", handmath.draw("pool", 10, 0, stream=2))
    summary = recurate(str(effects.root))
    assert summary["counts"]["new"] == 10 and len(state(effects.root)["recurations"]) == 3
    assert len({one for _, one in effects.told}) == 2, "the killed run was forgotten"


def test_a_decision_that_others_have_overtaken_is_taken_again(effects):
    record = tracker(effects.root)
    version = record.client.create_model_version(record.model_name, "runs:/elsewhere/model")
    record.set_alias(version, CHAMPION)
    with pytest.raises(ChampionChanged, match=r"was 1 when version 2 was held against it.*: run again"):
        recurate(str(effects.root))
    assert not effects.told and not effects.uploaded and len(state(effects.root)["recurations"]) == 1
    record.set_alias(record.model_versions()[0], CHAMPION)
    assert recurate(str(effects.root))["counts"]["new"] == 20


@pytest.mark.parametrize("more", [0, 10])
def test_a_warm_up_that_a_killed_run_did_is_not_forgotten(workspace, monkeypatch, more):
    """It stands for the pool that it was done with; with yet another pool nobody knows how far it reaches."""
    set_params(workspace / "params.yaml", ["warmup.learning_rate=0.0001"])
    arrive(workspace, "2026-11-08", handmath.draw("pool", 20, 0, stream=1))
    with monkeypatch.context() as patch:
        patch.setattr("flows.recurate.challenge", stop)
        with pytest.raises(KeyboardInterrupt):
            recurate(str(workspace))
    warmed = read_json(workspace / "models/proxy-warm.manifest.json")
    if more:
        arrive(workspace, "2026-11-15", handmath.draw("pool", more, 0, stream=2))
    summary = recurate(str(workspace))
    assert summary["warmed_up"] == summary["name"], "drift would be measured from a run of another proxy"
    (reason,) = summary["why_warmed_up"]
    now = read_json(workspace / "models/proxy-warm.manifest.json")
    assert ("another pool" in reason) == bool(more) == (now != warmed)
    assert now["inputs"]["data/pool"] == digest(workspace / "data/pool")


def test_a_second_flow_in_the_same_workspace_is_refused(workspace):
    arrive(workspace, "2026-11-08", handmath.draw("pool", 5, 0, stream=2))
    with Session(workspace), pytest.raises(WorkspaceError, match=r"process \d+ is at work in .*workspace: wait"):
        recurate(str(workspace))
    with Session(workspace):
        pass  # else the claim outlived its holder


def test_changes_are_told_from_one_table_to_the_next():
    before = pa.table({"id": ["a", "b", "c"], "kept": [True, True, False], "toxic": [False, False, True]})
    now = pa.table({"id": ["b", "c", "d"], "kept": [False, True, True], "toxic": [True, False, True]})
    found = [(row["id"], row["change"]) for row in changes_between(before, now).to_pylist()]
    assert found == [
        *(("a", "gone"), ("a", "left")),
        *(("b", "left"), ("b", "turned toxic")),
        *(("c", "entered"), ("c", "no longer toxic")),
        *(("d", "new"), ("d", "entered")),
    ]
