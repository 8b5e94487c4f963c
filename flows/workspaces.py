"""Workspaces of a comparison: one a seed, each with a pipeline of its own that DVC keeps up to date."""

import shutil
from pathlib import Path

from ruamel.yaml import YAML

from flows.parameters import set_params
from ost.comparison import ARMS, RATINGS, Trial, plan
from ost.config import Params, load_params
from ost.store import publish
from tasks import versioning
from tasks.pipeline import NOWHERE


def prepare(folder: Path, origin: Path, assignments: list[str], like: Path | None = None) -> Params:
    """Make a comparison's folder, or bring its parameters up to date, and return them.

    Its params.yaml starts as that of the workspace `origin`, or of another comparison `like`, whose results are taken
    over. `assignments` such as `sft.steps=400` are made in it, and stay.
    """
    file = folder / "params.yaml"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile((like or origin) / "params.yaml", file)
        set_params(file, [] if like else _absolute(origin))
    set_params(file, assignments)
    return load_params(file)


def seed_workspace(folder: Path, seed: int, pipeline: Path, like: Path | None = None) -> Path:
    """The workspace of one seed, its parameters and stages those of the comparison; DVC knows what is up to date."""
    workspace = folder / f"seed-{seed}"
    if not (workspace / ".dvc").exists():
        _make(workspace, like / f"seed-{seed}" if like else None)
    shutil.copyfile(folder / "params.yaml", workspace / "params.yaml")
    set_params(workspace / "params.yaml", [f"seed={seed}"])
    _write_stages(workspace / "dvc.yaml", pipeline, load_params(workspace / "params.yaml"))
    return workspace


def _make(workspace: Path, like: Path | None) -> None:
    if like and like.exists():
        shutil.copytree(like, workspace, ignore=shutil.ignore_patterns("tmp"))
        return
    workspace.mkdir(parents=True)
    versioning.init(workspace)


def _absolute(origin: Path) -> list[str]:
    """Assignments that make the relative paths of a workspace's params.yaml hold elsewhere."""
    params = load_params(origin / "params.yaml")
    named = {f"data.{name}": getattr(params.data, name) for name in ("pool", "anchors", "benchmark", "truth")}
    named |= {f"models.{name}": getattr(params.models, name) for name in ("target", "proxy", "judge")}
    named |= {f"deita.{name}": getattr(params.deita, name) for name in ("rater", "embedder")}
    found = [
        f"{name}={(origin / path).resolve()}"
        for name, path in named.items()
        if path and not path.startswith("world/") and (origin / path).exists()
    ]
    if params.data.image_roots:
        found.append(f"data.image_roots={[str((origin / folder).resolve()) for folder in params.data.image_roots]}")
    uri = params.tracking.uri
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        found.append(f"tracking.uri=sqlite:///{(origin / uri.removeprefix('sqlite:///')).resolve()}")
    return found


def _write_stages(path: Path, pipeline: Path, params: Params) -> None:
    """The stages up to the warm proxy as the pipeline has them, then the comparison's ratings, choices and trials."""
    yaml = YAML(typ="safe")
    known = yaml.load(pipeline.read_text())["stages"]
    trials = plan(params.compare)
    subsets = {trial.subset.key: trial.subset for trial in trials}
    ratings = {ARMS[subset.arm].rating for subset in subsets.values()}
    used = {stage for rating in ratings for stage in RATINGS[rating].stages}
    stages = {name: known[name] for name in ("world", "base", "ingest", "warmup") if name in known}
    stages["ingest"]["deps"] = _watched(path, known["ingest"]["deps"])
    stages["base"]["foreach"] = {role: {"weights": _weights_of(role, params)} for role in roles(params)}
    stages |= {name: stage for name, stage in _rating_stages(params).items() if name in used}
    stages["choose"] = _each(
        {key: {"rating": RATINGS[ARMS[subset.arm].rating].table} for key, subset in subsets.items()},
        "choose",
        deps=["${item.rating}"],
        params=["seed", "select", "deita.threshold"],
        outs=["selections/${key}.parquet", "selections/${key}.manifest.json"],
    )
    stages |= _trial_stages(trials)
    judged = {"judge": {"model": "models/judge"}} if "judge" in roles(params) else {}
    evaluated = {"base": {"model": "models/target"}} | judged
    stages["evaluate"] = {"foreach": evaluated, "do": known["evaluate"]["do"]}
    with publish(path) as part, part.open("w") as stream:
        yaml.dump({"stages": stages}, stream)


def roles(params: Params) -> list[str]:
    """The base checkpoints that a comparison needs."""
    judged = "judge" in params.compare.arms and params.models.judge and not params.judge.server
    return ["target", "proxy", *(["judge"] if judged else [])]


def _watched(path: Path, listed: list[str]) -> list[str]:
    """What ingestion depends on: as it was found when it ran here, else what does not follow from what it reads."""
    if path.exists():
        return YAML(typ="safe").load(path.read_text())["stages"]["ingest"]["deps"]
    return [one for one in listed if one.startswith(("${", "models/"))]


def _weights_of(role: str, params: Params) -> str:
    """The folder that a model comes from, or what stands for one."""
    name = getattr(params.models, role)
    return name if name and Path(name).is_dir() else NOWHERE


def _each(items: dict[str, dict], stage: str, **rest: list[str]) -> dict:
    return {"foreach": items, "do": {"cmd": f"python -m flows.stage {stage}@${{key}}", **rest}}


def _trial_stages(trials: list[Trial]) -> dict[str, dict]:
    """Two kinds, for a stage of many has one list of dependencies, and few of the trials depend on the anchors."""
    deps = ["data/pool", "data/benchmark", "models/target", "selections/${item.subset}.parquet"]
    kinds: dict[str, dict] = {}
    for trial in trials:
        kinds.setdefault(trial.stage.partition("@")[0], {})[trial.key] = {"subset": trial.subset.key}
    return {
        kind: _each(
            own,
            kind,
            deps=[*deps, "data/anchors"] if kind == "trial-anchored" else deps,
            params=["seed", "sft", "evaluate"],
            outs=["trials/${key}.json", "trials/${key}.manifest.json"],
        )
        for kind, own in kinds.items()
    }


def _rating_stages(params: Params) -> dict[str, dict]:
    pool, anchors = "data/pool", "data/anchors"
    warmup = ["seed", "warmup", "sft.steps", "sft.batch_size", "score.batch_size"]
    judge = "models/judge" if "judge" in roles(params) else "models/target"
    proxies = ["models/proxy", "models/proxy-warm"]
    reference = ["seed", "holdout", "sft.batch_size", "warmup.learning_rate", "score.batch_size"]
    needs = {
        "one-step": ([pool, anchors, *proxies], ["score"]),
        "lookahead": ([pool, anchors, *proxies], ["score"]),
        "loss": ([pool, *proxies], ["score.batch_size"]),
        "color": ([pool, anchors, *proxies], reference),
        "rho": ([pool, anchors, *proxies], [*reference, "warmup.lora_rank"]),
        "less": ([pool, anchors, "models/proxy"], ["less", *warmup]),
        "deita": ([pool], ["deita"]),
        "rated": ([pool], []),
        "truth": ([pool, "data/truth.parquet"], []),
        "judge": ([pool, anchors, judge], ["models.judge", "judge", "evaluate.match", "evaluate.batch_size"]),
    }
    return {
        f"rate-{name}": {
            "cmd": f"python -m flows.stage rate-{name}",
            "deps": deps,
            "params": read,
            "outs": [f"ratings/{name}.parquet", f"ratings/{name}.manifest.json"],
        }
        for name, (deps, read) in needs.items()
    }
