"""The pipeline of a workspace: its stages, what each depends on and leaves, and dvc.yaml, which is made from them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ost.arms import POOL, TRUTH, Scores
from ost.arms.plan import Subset
from ost.selection import turns_beside
from ost.store import publish, read_json, recover
from tasks.plan import Plan
from tasks.settings import Params, load_params
from tasks.storage import is_remote

HEADER = """\
# Made from params.yaml by `ost plan`, and not to be edited: every run of the pipeline makes it anew.
# `dvc repro` and `ost curate` run the same stages (tasks/stages/).
"""
OWN = "python:"
"""Begins the name of a metric of one's own (ost/evaluation/metrics/own.py)."""
SETS = ("pool", "anchors", "benchmark")
ADDED = "added_anchors"
"""Key of `data` that names what the anchors' own source lacks."""
ANCHORED = ("lookahead",)
"""Scores that leave a table of their anchors: those that say how each fares by training on the others."""
MANIFEST = ".manifest.json"
"""Suffix of the manifest that stands beside an artifact."""
ON_ACCELERATOR = ("base", "warmup", "score", "sft", "evaluate", "trial")
"""Kinds of stage that compute on the accelerator, where there is one."""


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline, as dvc.yaml has it. Paths are relative to the workspace."""

    name: str
    """Its kind, or kind and key, such as `sft-lookahead-20-B`."""
    reads: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Folders among what it writes that it finds again when it is run anew."""

    @property
    def kind(self) -> str:
        """What it does, such as `sft`; the name of its function."""
        return self.name.partition("-")[0]

    @property
    def made(self) -> tuple[str, ...]:
        """All that it writes."""
        return *self.writes, *self.metrics


def manifest_path(stage: str) -> str:
    """Where a stage's manifest goes."""
    kind, _, key = stage.partition("-")
    return {
        "world": "world/manifest.json",
        "base": f"models/{key}{MANIFEST}",
        "ingest": "data/manifest.json",
        "warmup": f"models/proxy-warm{MANIFEST}",
        "score": f"scores/{key}{MANIFEST}",
        "select": f"selections/{key}{MANIFEST}",
        "sft": f"models/sft/{key}{MANIFEST}",
        "evaluate": f"evaluations/{key}{MANIFEST}",
        "trial": f"evaluations/{key}{MANIFEST}",
        "report": "report/manifest.json",
    }[kind]


def stages_of(root: Path, plan: Plan) -> list[Stage]:
    """All stages of a workspace, each behind those that it depends on."""
    params = plan.params
    sets, models = [f"data/{name}" for name in SETS], [f"models/{role}" for role in plan.roles]
    found = [_world(params)] if params.uses_world else []
    found += [_base(root, params, role) for role in plan.roles]
    found.append(
        Stage(
            "ingest",
            (*ingest_reads(root, params), *models[:2]),
            ("data", "models.allow_cross_family"),
            (*sets, "data/quarantine.parquet", *truths(root, params), manifest_path("ingest")),
            ("metrics/ingest.json",),
            tuple(sets),
        )
    )
    if any("proxy-warm" in scores.reads for scores in plan.scores):
        found.append(
            Stage(
                "warmup",
                ("data/pool", "models/proxy"),
                ("seed", "warmup", "sft.steps", "sft.epochs", "sft.batch_size"),
                ("models/proxy-warm", manifest_path("warmup")),
            )
        )
    found += [_score(root, plan, scores) for scores in plan.scores]
    found += [_select(subset, params) for subset in plan.subsets]
    found += _trainings(plan)
    found += [_evaluate(key, folder) for key, folder in plan.untrained.items()]
    found += [_report(root, plan)] if params.curate.keep else []
    return [_with_unseen(root, plan, stage) for stage in found]


def _with_unseen(root: Path, plan: Plan, stage: Stage) -> Stage:
    """A stage that also watches what its inputs only name: an adapter's base, and the file of a metric of one's own."""
    roles = [role for role in plan.roles if f"models/{role}" in stage.reads]
    unseen = [path for role in roles for path in weight_folders(root, getattr(plan.params.models, role))[1:]]
    if any(name.partition(".")[0] == "evaluate" for name in stage.params):
        unseen += _own_metrics(root, plan.params)
    return replace(stage, reads=tuple(dict.fromkeys([*stage.reads, *unseen])))


def _own_metrics(root: Path, params: Params) -> list[str]:
    """Files in the workspace that functions of `evaluate.metric` stand in; what these import is not looked for."""
    asked = params.evaluate.metric
    names = [name for name in ([asked] if isinstance(asked, str) else asked.values()) if name.startswith(OWN)]
    modules = [name.removeprefix(OWN).rpartition(".")[0].replace(".", "/") for name in names]
    files = [f"{module}{ending}" for module in modules if module for ending in (".py", "/__init__.py")]
    return [file for file in files if (root / file).is_file()]


def weight_folders(root: Path, name: str | None) -> tuple[str, ...]:
    """Local folders that the weights of a model come from, as dvc.yaml has them: its own, and its adapter's base.

    Raises ModelError where the base is not there.
    """
    if not name or not (folder := root / name).is_dir():
        return ()
    if not (folder / "adapter_config.json").is_file():
        return (name,)
    from ost.models import checkpoint_folders  # which loads torch

    return name, *(in_workspace(root, base) for base in checkpoint_folders(folder)[1:])


def in_workspace(root: Path, path: Path) -> str:
    """A path from the workspace's root, or the whole of one that lies outside."""
    root = root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _world(params: Params) -> Stage:
    names = (*SETS, "truth", *(["truth-turns"] if params.world.has_turns else []))
    written = tuple(f"world/{name}.parquet" for name in names)
    return Stage(
        "world", (), ("seed", "world", "base.batch_size", "base.learning_rate"), (*written, manifest_path("world"))
    )


def _base(root: Path, params: Params, role: str) -> Stage:
    """The base checkpoint of a role; local folders that its weights come from are watched."""
    name = getattr(params.models, role)
    own = [f"base.{role}_{what}" for what in ("steps", "width")]
    read = ("seed", "world.name", f"models.{role}", "data.max_image_tokens", "base.tasks", *own)
    stage = f"base-{role}"
    params_read = (*read, "base.batch_size", "base.learning_rate")
    return Stage(stage, weight_folders(root, name), params_read, (f"models/{role}", manifest_path(stage)))


def _score(root: Path, plan: Plan, scores: Scores) -> Stage:
    stage = f"score-{scores.name}"
    table = f"scores/{scores.name}.parquet"
    others = ["toxic"] if scores.utility else []
    others += ["turns"] if scores.tells_turns(plan.params) else []
    others += ["anchors"] if scores.name in ANCHORED else []
    beside = tuple(f"scores/{scores.name}-{name}.parquet" for name in others)
    reads = tuple(path for name in scores.reads for path in _input(root, plan, name))
    return Stage(
        stage, reads, scores.settings, (table, *beside, manifest_path(stage)), (f"metrics/score-{scores.name}.json",)
    )


def anchors_beside(scores: str) -> str:
    """The table of the anchors that scores of this name leave."""
    return f"scores/{scores}-anchors.parquet"


def _input(root: Path, plan: Plan, name: str) -> list[str]:
    """Paths of an input that scores name: a sample set, a model, or a setting where that names a local folder."""
    if name in SETS:
        return [f"data/{name}"]
    if name == "judge":
        return [] if plan.params.judge.server else ["models/judge" if "judge" in plan.roles else "models/target"]
    if "." in name:
        section, key = name.split(".")
        folder = getattr(getattr(plan.params, section), key)
        return [folder] if folder and (root / folder).exists() else []
    return [f"models/{name}"]


def _select(subset: Subset, params: Params) -> Stage:
    by, stage = subset.arm.by, f"select-{subset.key}"
    known = {POOL: ("data/pool",), TRUTH: ("data/pool", "data/truth.parquet")}
    reads = known.get(by) or (f"scores/{by.name}.parquet",)
    if subset.arm.utility and params.select.unit == "turn":
        reads += (f"scores/{by.name}-turns.parquet",)
    return Stage(
        stage, reads, ("seed", *subset.arm.settings), (f"selections/{subset.key}.parquet", manifest_path(stage))
    )


def _trainings(plan: Plan) -> Iterator[Stage]:
    """A training and its evaluation; in one stage where the model is not kept."""
    for training in plan.trainings:
        key, subset = training.key, training.subset
        learned = ("data/pool", f"selections/{subset.key}.parquet", "models/target")
        learned += ("data/anchors",) if subset.arm.with_anchors else ()
        if plan.params.curate.keep:
            stage = f"sft-{key}"
            yield Stage(stage, learned, ("seed", "sft"), (f"models/sft/{key}", manifest_path(stage)))
            yield _evaluate(key, f"models/sft/{key}")
        else:
            stage = f"trial-{key}"
            yield Stage(stage, (*learned, "data/benchmark"), ("seed", "sft", "evaluate"), _answers(key))


def _evaluate(key: str, folder: str) -> Stage:
    return Stage(f"evaluate-{key}", ("data/benchmark", folder, folder + MANIFEST), ("evaluate",), _answers(key))


def _answers(key: str) -> tuple[str, ...]:
    return f"evaluations/{key}.json", f"evaluations/{key}.parquet", f"evaluations/{key}{MANIFEST}"


def report_reads(root: Path, plan: Plan) -> tuple[str, ...]:
    """All that the report looks at."""
    stages = ["ingest", "warmup", *(f"score-{scores.name}" for scores in plan.scores)]
    stages += [f"select-{subset.key}" for subset in plan.subsets]
    tables = [f"scores/{scores.name}.parquet" for scores in plan.scores]
    tables += [anchors_beside(scores.name) for scores in plan.scores if scores.name in ANCHORED]
    tables += [f"selections/{subset.key}.parquet" for subset in plan.subsets]
    if len(known := truths(root, plan.params)) > 1:
        tables += [f"scores/{scores.name}-turns.parquet" for scores in plan.scores if scores.tells_turns(plan.params)]
    answers = [f"evaluations/{key}.{kind}" for key in plan.evaluated for kind in ("json", "parquet")]
    return (
        "data/pool",
        "data/anchors",
        "data/benchmark",
        *known,
        "metrics/ingest.json",
        *map(manifest_path, stages),
        *tables,
        *answers,
    )


def _report(root: Path, plan: Plan) -> Stage:
    written = ("report/index.html", manifest_path("report"))
    params = ("seed", "select", "curate.subsets", "curate.protocols")  # the first of them is the one that it tells of
    return Stage("report", report_reads(root, plan), params, written, ("metrics/arms.json", "metrics/audit.json"))


def ingest_reads(root: Path, params: Params) -> tuple[str, ...]:
    """What ingestion depends on: the sources, and what was found beside them when they were last read."""
    data = params.data
    named = [getattr(data, name) for name in SETS] + [name for name in (data.truth, data.added_anchors) if name]
    named += [own] if (own := turns_known(root, params)) else []
    local = [  # added anchors have no name of the hub: where they are gone, that is told
        path
        for path in named
        if is_remote(path) or path.startswith("world/") or path == data.added_anchors or (root / path).exists()
    ]
    return tuple(dict.fromkeys([*local, *_beside(root, named)]))


def turns_known(root: Path, params: Params) -> str | None:
    """Where it stands which turns of the pool are wrong: beside the table of samples; None where nobody knows."""
    if not params.data.truth:
        return None
    path, is_made = _of_turns(params.data.truth), params.uses_world and params.data.truth.startswith("world/")
    return path if (params.world.has_turns if is_made else (root / path).is_file()) else None


def truths(root: Path, params: Params) -> tuple[str, ...]:
    """What the audit alone reads: which samples are wrong, and which turns where that is known."""
    return "data/truth.parquet", *(["data/truth-turns.parquet"] if turns_known(root, params) else [])


def _of_turns(path: str) -> str:
    return turns_beside(path).as_posix()


def _beside(root: Path, named: Sequence[str]) -> list[str]:
    """What the record of the last ingestion says that it read of these sources, beside what is known before."""
    record = root / manifest_path("ingest")
    if not record.exists():
        return []
    manifest = read_json(record)
    data = manifest["params"]["data"]
    if [data[name] for name in SETS] != list(named[:3]):
        return []
    known = (*named, data["truth"], data.get(ADDED), *([_of_turns(data["truth"])] if data["truth"] else []))
    return [path for path in manifest["inputs"] if not path.startswith("models/") and path not in known]


def needed_for(stages: Sequence[Stage], wanted: Collection[str]) -> list[Stage]:
    """The stages of these names and all that they depend on, in order."""
    found, read = set(), set()
    for stage in reversed(stages):
        if stage.name in wanted or read.intersection(stage.made):
            found.add(stage.name)
            read.update(stage.reads)
    return [stage for stage in stages if stage.name in found]


def up_to(stages: Sequence[Stage], kind: str) -> list[Stage]:
    """The stages that a run until this kind takes: all of the kind, and what they depend on."""
    last = {"sft": ("sft", "trial"), "evaluate": ("evaluate", "trial")}.get(kind, (kind,))
    return needed_for(stages, {stage.name for stage in stages if stage.kind in last})


def write_pipeline(root: Path) -> bool:
    """Make a workspace's dvc.yaml from its parameters; returns whether it had to be written.

    What a killed run was just publishing is there again afterwards (`ost.store.recover`). DVC reads dvc.yaml at the
    start of each of its commands, so it is left alone where it holds the same stages.
    """
    plan = Plan(load_params(root / "params.yaml")).check()
    given = yaml.safe_load((root / "params.yaml").read_text()) or {}
    found = stages_of(root, plan)
    for path in (path for stage in found for path in stage.made):
        recover(root / path)
    stages = {stage.name: _in_yaml(stage, given) for stage in found}
    text = HEADER + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)
    file = root / "dvc.yaml"
    if file.exists() and file.read_text() == text:
        return False
    with publish(file) as part:
        part.write_text(text)
    return True


def _in_yaml(stage: Stage, given: dict) -> dict[str, Any]:
    """A stage as DVC reads it; of the parameters those that params.yaml has, for DVC refuses others."""
    parts = {
        "cmd": f"python -m flows.stage {stage.name}",
        "deps": list(stage.reads),
        "params": [name for name in stage.params if _is_given(name, given)],
        "outs": [{path: {"persist": True}} if path in stage.kept else path for path in stage.writes],
        "metrics": [{path: {"cache": False}} for path in stage.metrics],
    }
    return {name: own for name, own in parts.items() if own}


def _is_given(name: str, given: dict) -> bool:
    section, _, key = name.partition(".")
    return section in given and (not key or key in given[section])
