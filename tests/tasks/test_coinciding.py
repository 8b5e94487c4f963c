"""Trainings that keep the same samples: made once, recorded under each name, and made anew where anything differs."""

import shutil

import pytest
from specimens import drawn

import tasks.stages.sft
from flows.parameters import set_params
from ost.arms.plan import Training
from ost.data import content_digest, write_samples
from ost.errors import WorkspaceError
from ost.selection import selection_table
from ost.store import read_json, read_table, write_json, write_table
from ost.training import train
from tasks.coinciding import coinciding
from tasks.pipeline import manifest_path
from tasks.plan import Plan
from tasks.record.lineage import chain, find_version, uses
from tasks.settings import load_params
from tasks.stages.rows import rows_of
from tasks.stages.run import execute

FIRST, SECOND = "random-50-B", "lookahead-50-B"
SUBSETS = ["full", "random-50", "random-anchors-50", "lookahead-50"]
IDS = [sample.id for sample in drawn("pool", 8)]


@pytest.fixture
def workspace(folder, proxy):
    """A folder as `ingest`, `base` and `select` leave it, in which every subset keeps the same samples."""
    for name, count in {"pool": 8, "anchors": 2, "benchmark": 2}.items():
        write_samples(folder / f"data/{name}", drawn(name, count))
    proxy.save(folder / "models/target")
    write_json(folder / "models/target.manifest.json", {})
    settings = ["sft.steps=2", "sft.batch_size=4", "evaluate.max_new_tokens=2", "curate.protocols=[B, A]"]
    set_params(folder / "params.yaml", [f"curate.subsets=[{', '.join(SUBSETS)}]", *settings])
    for subset in SUBSETS:
        keep(folder, subset, IDS[:4])
    for stage in ("warmup", "score-lookahead", *(f"select-{subset}" for subset in SUBSETS)):
        write_json(folder / manifest_path(stage), {"seconds": 1.0, "flops": 1.0, "metrics": {"pool": 8}})
    return folder


def keep(folder, subset: str, ids: list[str]) -> None:
    write_table(folder / f"selections/{subset}.parquet", selection_table(IDS, ids, "left out"))


@pytest.fixture
def trained(monkeypatch) -> list[list[str]]:
    """The samples of every training that is made."""
    seen: list[list[str]] = []

    def spied(checkpoint, samples, *rest, **options):
        seen.append([sample.id for sample in samples])
        return train(checkpoint, samples, *rest, **options)

    monkeypatch.setattr(tasks.stages.sft, "train", spied)
    return seen


def test_the_same_samples_under_one_protocol_coincide_with_the_first_that_keeps_them(workspace):
    params = load_params(workspace / "params.yaml")
    found = {training.key: coinciding(workspace, params, training.key) for training in Plan(params).trainings}
    assert found == {
        "full-B": None,
        "random-50-B": "full-B",
        "random-50-A": None,
        "random-anchors-50-B": None,
        "random-anchors-50-A": None,
        "lookahead-50-B": "full-B",
        "lookahead-50-A": "random-50-A",
    }
    keep(workspace, "full", IDS)
    assert coinciding(workspace, params, SECOND) == FIRST
    keep(workspace, "random-50", IDS[3::-1])
    assert coinciding(workspace, params, SECOND) is None, "another order is another training"
    (workspace / "selections/random-50.parquet").unlink()
    assert coinciding(workspace, params, SECOND) is None and coinciding(workspace, params, FIRST) is None
    assert coinciding(workspace, params, "less-20-B") is None, "it is no training of this plan"


def test_what_keeps_nothing_coincides_with_nothing(workspace):
    for subset in SUBSETS:
        keep(workspace, subset, [])
    params = load_params(workspace / "params.yaml")
    assert not any(coinciding(workspace, params, training.key) for training in Plan(params).trainings)


@pytest.fixture
def apart(workspace):
    """The workspace, in which only FIRST and SECOND keep the same."""
    keep(workspace, "full", IDS)
    keep(workspace, "random-anchors-50", IDS[4:])
    return workspace


def test_a_model_is_trained_once_and_tested_and_told_under_both_names(apart, trained):
    one, two = (execute(f"sft-{key}", apart) for key in (FIRST, SECOND))
    assert trained == [IDS[:4]], "it was trained twice"
    assert list(one["outputs"].values()) == list(two["outputs"].values())
    assert (one["metrics"], one["flops"], one["seconds"]) == (two["metrics"], two["flops"], two["seconds"])
    assert one["inputs"].keys() - two["inputs"].keys() == {"selections/random-50.parquet"}
    assert two["inputs"].keys() - one["inputs"].keys() == {"selections/lookahead-50.parquet"}
    assert two["datasets"] == {"lookahead-50": content_digest(IDS[:4])}
    assert "same_as" not in one["labels"] and two["labels"]["same_as"] == FIRST
    assert (two["labels"]["arm"], two["labels"]["subset"]) == ("lookahead", "lookahead-50")
    assert two["warnings"] == ["it keeps exactly what Random 50 % keeps: trained once, as random-50-B"]
    for key in (FIRST, SECOND):
        execute(f"evaluate-{key}", apart)
    rows = rows_of(apart, Plan(load_params(apart / "params.yaml")), [Training.parse(key) for key in (FIRST, SECOND)])
    assert [(row["subset"], row["same_as"]) for row in rows] == [("random-50", None), ("lookahead-50", FIRST)]
    assert rows[0]["accuracy"] == rows[1]["accuracy"] and rows[0]["train_flops"] == rows[1]["train_flops"] > 0
    assert [row["select_seconds"] for row in rows] == [1.0, 3.0], "each arm has its own cost of choosing"


def test_a_trial_is_made_once_and_recorded_under_both_names(apart, trained):
    set_params(apart / "params.yaml", ["curate.keep=false"])
    one, two = (execute(f"trial-{key}", apart) for key in (FIRST, SECOND))
    assert len(trained) == 1 and two["labels"]["same_as"] == FIRST
    assert not (apart / "models/sft").exists(), "a comparison keeps no model"
    own = [read_json(apart / f"evaluations/{key}.json") for key in (FIRST, SECOND)]
    answers = [read_table(apart / f"evaluations/{key}.parquet") for key in (FIRST, SECOND)]
    assert own[0] == own[1] and answers[0].equals(answers[1])
    assert one["datasets"]["benchmark"] == two["datasets"]["benchmark"]
    assert {"models/target", "data/benchmark", "data/pool"} <= one["inputs"].keys() & two["inputs"].keys()


CHANGES = {
    "settings": lambda root: set_params(root / "params.yaml", ["sft.learning_rate=5e-4"]),
    "seed": lambda root: set_params(root / "params.yaml", ["seed=1"]),
    "samples": lambda root: keep(root, "lookahead-50", IDS[1:5]),
    "order": lambda root: keep(root, "lookahead-50", IDS[3::-1]),
    "target": lambda root: (root / "models/target/more.json").write_text("{}"),
}
KEPT = {
    "model gone": lambda root: shutil.rmtree(root / f"models/sft/{FIRST}"),
    "model changed": lambda root: (root / f"models/sft/{FIRST}/more.json").write_text("{}"),
    "record gone": lambda root: (root / manifest_path(f"sft-{FIRST}")).unlink(),
}
TRIED = {
    "answers gone": lambda root: (root / f"evaluations/{FIRST}.parquet").unlink(),
    "how it is tested": lambda root: set_params(root / "params.yaml", ["evaluate.metric=exact"]),
    "benchmark": lambda root: write_samples(root / "data/benchmark", drawn("benchmark", 3)),
}


@pytest.mark.parametrize(
    ("kind", "change"),
    [("sft", change) for change in (*CHANGES, *KEPT)] + [("trial", change) for change in (*CHANGES, *TRIED)],
)
def test_where_anything_else_differs_it_is_trained_apart(kind, change, apart, trained):
    execute(f"{kind}-{FIRST}", apart)
    (CHANGES | KEPT | TRIED)[change](apart)
    assert "same_as" not in execute(f"{kind}-{SECOND}", apart)["labels"]
    assert len(trained) == 2, "the first one's outcome was taken over"


def test_each_of_two_versions_with_the_same_weights_leads_to_its_own_selection(apart, tracker, made):
    """The two selections are the same, byte by byte, and so are the models."""
    parent = tracker.open({"commit": "", "dirty": False}, "prefect")
    for key in (FIRST, SECOND):
        subset = key.removesuffix("-B")
        path = f"selections/{subset}.parquet"
        tracker.record(made(f"select-{subset}", {}, {path: (apart / path).read_bytes()}), parent)
        tracker.record(execute(f"sft-{key}", apart), parent)
        tracker.record(execute(f"evaluate-{key}", apart), parent)
    for key in (FIRST, SECOND):
        version = find_version(tracker, f"{tracker.model_name}@{key}")
        assert version.tags["ost.run"] == key and "ost.accuracy" in version.tags
        sources = {artifact.path for artifact in chain(tracker, version).sources}
        assert sources == {"data/pool", "models/target", f"selections/{key.removesuffix('-B')}.parquet"}
    found = {use.subset: [model.tags["ost.run"] for model in use.models] for use in uses(tracker, IDS[0])}
    assert found == {"random-50": [FIRST], "lookahead-50": [SECOND]}


@pytest.mark.parametrize("kind", ["sft", "trial"])
def test_a_target_that_is_missing_is_named_with_the_remedy(kind, workspace):
    shutil.rmtree(workspace / "models/target")
    with pytest.raises(WorkspaceError, match=f"stage {kind}-{FIRST} needs models/target, which is missing: run"):
        execute(f"{kind}-{FIRST}", workspace)
