"""The pipeline that is made of a plan: whatever is asked for, its stages fit together, and DVC takes it."""

import functools
import operator
import pkgutil
import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml
from dvc.stage.utils import is_valid_name
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.main import Until
from flows.parameters import set_params
from ost import store
from ost.arms import arms
from ost.arms.plan import PURE, Subset, subsets_of
from ost.store import write_json
from tasks import versioning
from tasks.pipeline import Stage, manifest_path, needed_for, report_reads, stages_of, up_to, write_pipeline
from tasks.plan import Plan
from tasks.settings import Params, parse_params
from tasks.stages.run import KINDS

ROOT = Path(__file__).parents[2]
KEYS = [subset.key for subset in subsets_of(arms(), [0.05, 0.2, 0.125, 1.0, PURE])]
CEILINGS = [subset.key for subset in map(Subset.parse, KEYS) if subset.arm.is_ceiling]
MODELS = {"target": ["builtin", "org/target", "own/target"], "judge": [None, "builtin", "own/judge"]}
KNOWN = Params().model_dump()
OWN = {"pool": "own/pool.jsonl", "anchors": "s3://bucket/anchors.json", "benchmark": "org/name", "truth": None}


@st.composite
def plans(draw) -> Plan:
    """Plans over all arms, of a curation or a comparison, on the built-in world or on data of a user's own."""
    known, keep = draw(st.booleans()), draw(st.booleans())
    keys = draw(
        st.lists(st.sampled_from([key for key in KEYS if known or key not in CEILINGS]), max_size=8, unique=True)
    )
    keys += ["lookahead-7"] if keep or not keys else []
    raw = {
        "data": {} if known else OWN,
        "models": {name: draw(st.sampled_from(given)) for name, given in MODELS.items()},
        "judge": {"server": draw(st.sampled_from([None, "http://127.0.0.1:8000/v1"]))},
        "curate": {
            "subsets": keys,
            "protocols": draw(st.sampled_from([["B", "A"], ["A", "B"], ["A"], ["B"]])),
            "keep": keep,
        },
    }
    return Plan(parse_params(raw)).check()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the files that the plans may name."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("own/target", "own/judge"):
        (folder / name).mkdir(parents=True)
    (folder / "own/pool.jsonl").write_text("{}")
    return folder


def sources(stages: list[Stage]) -> set[str]:
    """What stages read that none of them makes."""
    return {path for stage in stages for path in stage.reads} - {path for stage in stages for path in stage.made}


# --- whatever is asked for --------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(plan=plans())
def test_every_path_is_made_once_and_before_it_is_read(place, plan):
    stages = stages_of(place, plan)
    made: set[str] = set()
    for stage in stages:
        assert made.isdisjoint(stage.made) and len(set(stage.made)) == len(stage.made), f"{stage.name} writes it again"
        later = sources(stages)
        assert set(stage.reads) <= made | later, f"{stage.name} reads what is made behind it"
        made.update(stage.made)
    assert sources(stages) <= {"own/pool.jsonl", OWN["anchors"], "own/target", "own/judge"}
    assert all((place / path).exists() or "://" in path for path in sources(stages)), "DVC would miss a dependency"


@settings(max_examples=60)
@given(plan=plans())
def test_every_stage_is_one_that_can_be_run_and_that_dvc_can_keep(place, plan):
    stages = stages_of(place, plan)
    assert len({stage.name for stage in stages}) == len(stages)
    for stage in stages:
        assert is_valid_name(stage.name), "DVC refuses the name"
        assert stage.kind in KINDS and manifest_path(stage.name) in stage.writes
        assert set(stage.kept) <= set(stage.writes)
        for name in stage.params:
            functools.reduce(operator.getitem, name.split("."), KNOWN)


@settings(max_examples=60)
@given(plan=plans())
def test_a_plan_has_the_stages_that_it_asks_for_and_no_others(place, plan):
    names = {kind: [one.name for one in stages_of(place, plan) if one.kind == kind] for kind in KINDS}
    keep = plan.params.curate.keep
    assert names["world"] == (["world"] if plan.params.uses_world else [])
    assert names["select"] == [f"select-{key}" for key in plan.params.curate.subsets]
    assert names["sft" if keep else "trial"] == [
        f"{'sft' if keep else 'trial'}-{training.key}" for training in plan.trainings
    ]
    assert not names["trial" if keep else "sft"] and names["report"] == (["report"] if keep else [])
    tested = [name.partition("-")[2] for name in (*names["evaluate"], *names["trial"])]
    assert sorted(tested) == sorted(plan.evaluated), "a model is tested twice, or not at all"
    warm = any("proxy-warm" in scores.reads for scores in plan.scores)
    assert names["warmup"] == (["warmup"] if warm else [])


@settings(max_examples=60)
@given(plan=plans(), data=st.data())
def test_what_is_needed_is_closed_under_what_it_depends_on_and_holds_nothing_else(place, plan, data):
    stages = stages_of(place, plan)
    wanted = set(data.draw(st.lists(st.sampled_from([stage.name for stage in stages]), max_size=3)))
    needed = needed_for(stages, wanted)
    names, read = {stage.name for stage in needed}, {path for stage in needed for path in stage.reads}
    assert wanted <= names and needed == [stage for stage in stages if stage.name in names], "another order"
    for stage in stages:
        assert (stage.name in names) == (stage.name in wanted or bool(read.intersection(stage.made))), stage.name


@settings(max_examples=30)
@given(plan=plans(), kind=st.sampled_from(get_args(Until)))
def test_a_run_until_a_kind_of_stage_takes_all_of_it_and_nothing_behind_it(place, plan, kind):
    stages = stages_of(place, plan)
    found = [stage.kind for stage in up_to(stages, kind)]
    kinds = {"sft": ("sft", "trial"), "evaluate": ("evaluate", "trial")}.get(kind, (kind,))
    assert sum(one in kinds for one in found) == sum(stage.kind in kinds for stage in stages)
    assert not found or found[-1] in kinds


@settings(max_examples=60)
@given(plan=plans())
def test_the_report_reads_every_evaluation_selection_and_score(place, plan):
    told = {f"evaluations/{key}.json" for key in plan.evaluated}
    told |= {f"selections/{subset.key}.parquet" for subset in plan.subsets}
    told |= {f"scores/{scores.name}.parquet" for scores in plan.scores}
    assert told <= set(report_reads(place, plan))


def test_every_kind_of_stage_has_a_function_of_its_name():
    for kind in KINDS:
        assert callable(pkgutil.resolve_name(f"tasks.stages.{'sft' if kind == 'trial' else kind}:{kind}"))
    assert set(get_args(Until)) <= set(KINDS)


# --- dvc.yaml ---------------------------------------------------------------------------------------------------------


def stages_in(folder: Path) -> dict:
    return yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]


def test_the_shipped_pipeline_is_that_of_the_shipped_parameters(tmp_path):
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    assert write_pipeline(tmp_path)
    assert (tmp_path / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text(), "run `ost plan` and commit dvc.yaml"
    written = (tmp_path / "dvc.yaml").stat().st_mtime_ns
    assert not write_pipeline(tmp_path)
    assert (tmp_path / "dvc.yaml").stat().st_mtime_ns == written, "DVC may be reading it"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed: 3\nselect: {}\nscore: {shard_size: 8}\n",
        "curate: {subsets: [judge, less-12_5, one-step-pure], keep: false}\nmodels: {judge: builtin}\n",
        "data: {pool: own.jsonl, anchors: 's3://b/a.jsonl', benchmark: org/name, truth: null}\n",
    ],
)
def test_dvc_takes_a_pipeline_and_its_parameters_however_short_they_are(text, tmp_path):
    """DVC refuses a stage with a parameter that params.yaml does not have."""
    versioning.init(tmp_path)
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "own.jsonl").write_text("{}")
    write_pipeline(tmp_path)
    if "s3://" in text:  # asking DVC for these would ask a server
        text = text.replace("s3://b/a.jsonl", "own.jsonl")
        (tmp_path / "params.yaml").write_text(text)
        write_pipeline(tmp_path)
    assert versioning.stale_stages(tmp_path) == set(stages_in(tmp_path))
    given = yaml.safe_load(text) or {}
    for stage in stages_in(tmp_path).values():
        for name in stage.get("params", []):
            section, _, key = name.partition(".")
            assert section in given and (not key or key in given[section])


def test_every_stages_command_runs_that_stage(tmp_path):
    (tmp_path / "params.yaml").write_text("")
    write_pipeline(tmp_path)
    assert {name: stage["cmd"] for name, stage in stages_in(tmp_path).items()} == {
        stage.name: f"python -m flows.stage {stage.name}" for stage in stages_of(tmp_path, Plan(Params()))
    }
    outs = stages_in(tmp_path)["ingest"]["outs"]
    assert {"data/pool": {"persist": True}} in outs, "the next ingestion would find no shards to take over"


def test_a_change_of_the_parameters_changes_the_pipeline(folder):
    write_pipeline(folder)
    set_params(folder / "params.yaml", ["curate.subsets=[random-5, lookahead-top-5]", "curate.protocols=[B]"])
    assert write_pipeline(folder)
    assert {name for name in stages_in(folder) if name.startswith("sft-")} == {
        "sft-random-5-B",
        "sft-lookahead-top-5-B",
    }


# --- what ingestion depends on ----------------------------------------------------------------------------------------


def ingested(folder: Path, params: Params, *inputs: str) -> None:
    """The record of an ingestion that read these paths."""
    record = {"params": params.model_dump(mode="json"), "inputs": dict.fromkeys(inputs, "0" * 32)}
    write_json(folder / "data/manifest.json", record)


def reads_of(folder: Path, params: Params, stage: str = "ingest") -> set[str]:
    (found,) = [one for one in stages_of(folder, Plan(params)) if one.name == stage]
    return set(found.reads)


BUILTIN = {f"world/{name}.parquet" for name in ("pool", "anchors", "benchmark", "truth")}
BASES = {"models/target", "models/proxy"}


def test_the_built_in_world_is_watched_as_it_stands(tmp_path):
    assert reads_of(tmp_path, Params()) == BUILTIN | BASES
    ingested(tmp_path, Params(), *BUILTIN, *BASES)
    assert reads_of(tmp_path, Params()) == BUILTIN | BASES


def test_images_beside_a_source_become_dependencies_and_go_again(tmp_path):
    (tmp_path / "pool.jsonl").write_text("{}")
    params = parse_params({"data": {"pool": "pool.jsonl", "anchors": "s3://b/a.jsonl", "truth": None}})
    bare = {"pool.jsonl", "s3://b/a.jsonl", "world/benchmark.parquet"} | BASES
    assert reads_of(tmp_path, params) == bare, "nothing has been ingested yet"
    ingested(tmp_path, params, *bare, "img", "s3://b/img")
    assert reads_of(tmp_path, params) == bare | {"img", "s3://b/img"}
    other = parse_params({"data": {"pool": "pool.jsonl", "truth": None}})
    assert reads_of(tmp_path, other) == {"pool.jsonl", "world/anchors.parquet", "world/benchmark.parquet"} | BASES, (
        "what lay beside another source is watched"
    )
    ingested(tmp_path, params, *bare)
    assert reads_of(tmp_path, params) == bare


def test_a_truth_that_is_named_no_more_is_watched_no_more(tmp_path):
    (tmp_path / "truth.parquet").write_text("")
    params = parse_params({"data": {"truth": "truth.parquet"}})
    ingested(tmp_path, params, *reads_of(tmp_path, params))
    (tmp_path / "truth.parquet").unlink()
    assert "truth.parquet" not in reads_of(tmp_path, parse_params({"data": {"truth": None}}))


def test_added_anchors_are_watched_as_long_as_they_are_named(tmp_path):
    (tmp_path / "more.parquet").write_text("")
    params = parse_params({"data": {"added_anchors": "more.parquet"}})
    assert reads_of(tmp_path, params) == BUILTIN | BASES | {"more.parquet"}
    ingested(tmp_path, params, *reads_of(tmp_path, params))
    assert "more.parquet" in reads_of(tmp_path, params)
    assert reads_of(tmp_path, Params()) == BUILTIN | BASES


def test_a_source_of_the_hub_is_no_file_to_watch(tmp_path):
    params = parse_params({"data": {"pool": "org/name", "truth": None}})
    assert reads_of(tmp_path, params) == {"world/anchors.parquet", "world/benchmark.parquet"} | BASES


def test_weights_in_a_folder_are_watched(tmp_path):
    params = parse_params({"models": {"target": "mine/target"}})
    assert reads_of(tmp_path, params, "base-target") == set(), "a name of the hub, while no such folder is there"
    (tmp_path / "mine/target").mkdir(parents=True)
    assert reads_of(tmp_path, params, "base-target") == {"mine/target"}
    assert reads_of(tmp_path, Params(), "base-target") == reads_of(tmp_path, params, "base-proxy") == set()


def test_the_base_of_an_adapter_is_watched_by_all_that_reads_it(tmp_path):
    """The adapter's own files stay as they are where its base changes."""
    for base in ("own/base", "../elsewhere"):
        (tmp_path / "work" / base).resolve().mkdir(parents=True)
    folder = tmp_path / "work"
    for name, base in (("own/target", "../base"), ("own/proxy", "../../../elsewhere")):
        (folder / name).mkdir()
        write_json(folder / name / "adapter_config.json", {"base_model_name_or_path": base})
    params = parse_params({"models": {"target": "own/target", "proxy": "own/proxy"}})
    outside = str((tmp_path / "elsewhere").resolve())
    assert reads_of(folder, params, "base-target") == {"own/target", "own/base"}
    assert reads_of(folder, params, "base-proxy") == {"own/proxy", outside}
    for stage, base in (("sft-full-B", "own/base"), ("warmup", outside)):
        assert base in reads_of(folder, params, stage), "the copy in models/ is the same as before"


def test_the_file_of_a_metric_of_ones_own_is_watched(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("my_metrics.py", "mine/__init__.py", "mine/other.py"):
        (tmp_path / name).write_text("def score(answer, reference): return 1.0\n")
    given = {"a": "python:my_metrics.score", "b": "python:mine.score", "c": "python:mine.other.score", "d": "exact"}
    params = parse_params({"evaluate": {"metric": given}, "curate": {"subsets": ["full", "judge"]}})
    own = {"my_metrics.py", "mine/__init__.py", "mine/other.py"}
    stages = {stage.name: set(stage.reads) for stage in stages_of(tmp_path, Plan(params))}
    assert {name for name, reads in stages.items() if own <= reads} == {
        name for name in stages if name.startswith("evaluate-") or name == "score-judge"
    }
    installed = parse_params({"evaluate": {"metric": "python:json.loads"}})
    assert not any("json" in path for path in reads_of(tmp_path, installed, "evaluate-full-B") if "/" not in path)


def test_the_report_is_made_anew_where_another_subset_comes_first(folder):
    """Its main subset and protocol are the first ones; swapping two changes nothing that it reads."""
    set_params(folder / "params.yaml", ["curate.subsets=[random-5, lookahead-5]"])
    write_pipeline(folder)
    assert {"curate.subsets", "curate.protocols"} <= set(stages_in(folder)["report"]["params"])


def test_what_a_killed_run_was_publishing_is_there_again(folder):
    """Between its two renames a folder lies beside its name."""
    left = folder / "models/target.nobody-999999999-1.old.part"
    left.mkdir(parents=True)
    (folder / "models/target").mkdir()
    (folder / "models/target/config.json").write_text("{}")
    owner = f"{store._host()}-{2**22 + 1}-1"
    (folder / "models/target").rename(folder / f"models/target.{owner}.old.part")
    write_pipeline(folder)
    assert (folder / "models/target/config.json").is_file()
    assert left.is_dir(), "of another machine, which may be at work"


def test_with_data_of_ones_own_there_is_no_world(tmp_path):
    names = [f"{name}.jsonl" for name in ("pool", "anchors", "benchmark")]
    for name in names:
        (tmp_path / name).write_text("{}")
    params = parse_params({"data": dict(zip(("pool", "anchors", "benchmark"), names, strict=True)) | {"truth": None}})
    assert "world" not in {stage.name for stage in stages_of(tmp_path, Plan(params))}
    assert reads_of(tmp_path, params) == {*names, *BASES}
