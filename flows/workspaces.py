"""Workspaces of a comparison: one a seed, each with a pipeline of its own that DVC keeps up to date."""

import shutil
from pathlib import Path

from flows.parameters import set_params
from ost.arms.plan import subsets_of
from tasks import versioning
from tasks.settings import Curate, Params, load_params


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


def planned(params: Params) -> Params:
    """The parameters of a comparison's workspaces: its arms at its fractions are the subsets, no model is kept."""
    subsets = tuple(subset.key for subset in subsets_of(params.compare.arms, params.compare.fractions))
    curate = Curate(subsets=subsets, protocols=params.compare.protocols, keep=False)
    return params.model_copy(update={"curate": curate})


def seed_workspace(folder: Path, seed: int, like: Path | None = None) -> Path:
    """The workspace of one seed, with the comparison's parameters; DVC knows what is up to date in it."""
    workspace = folder / f"seed-{seed}"
    if not (workspace / ".dvc").exists():
        _make(workspace, like / f"seed-{seed}" if like else None)
    shutil.copyfile(folder / "params.yaml", workspace / "params.yaml")
    plan = planned(load_params(folder / "params.yaml")).curate
    lists = {"subsets": plan.subsets, "protocols": plan.protocols}
    told = [f"curate.{name}=[{', '.join(values)}]" for name, values in lists.items()]
    set_params(workspace / "params.yaml", [f"seed={seed}", *told, "curate.keep=false"])
    return workspace


def _make(workspace: Path, like: Path | None) -> None:
    if like and like.exists():
        shutil.copytree(like, workspace, ignore=lambda folder, names: _not_results(Path(folder), names))
        return
    workspace.mkdir(parents=True)
    versioning.init(workspace)


def _not_results(folder: Path, names: list[str]) -> set[str]:
    """What of a workspace's folder is the affair of whoever works there: locks, downloads, records to be delivered."""
    if folder.name != ".ost":
        return {"tmp"} & set(names)
    return {name for name in names if name in ("tmp", "lock", "slots", "outbox") or name.startswith("download-")}


def _absolute(origin: Path) -> list[str]:
    """Assignments that make the relative paths of a workspace's params.yaml hold elsewhere."""
    params = load_params(origin / "params.yaml")
    named = {
        f"data.{name}": getattr(params.data, name)
        for name in ("pool", "anchors", "benchmark", "truth", "added_anchors")
    }
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
