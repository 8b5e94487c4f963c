"""Rows of metrics/arms.json: every training of a workspace, with its accuracy and the whole cost of its arm."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ost.arms import Scores
from ost.arms.plan import BASE, Subset, Training
from ost.cost import Cost
from ost.store import read_json
from tasks.pipeline import manifest_path
from tasks.plan import Plan


def rows_of(root: Path, plan: Plan, finished: Iterable[Training] | None = None) -> list[dict]:
    """A row for the base and for each training, or for those that are finished.

    The base and Full-SFT, being the same under both protocols, stand under each that the plan has.
    """
    return list(_rows(root, plan, plan.trainings if finished is None else finished))


def _rows(root: Path, plan: Plan, finished: Iterable[Training]) -> Iterator[dict]:
    protocols, seed = plan.params.curate.protocols, plan.params.seed
    if (root / f"evaluations/{BASE}.json").exists():
        named = {"arm": BASE, "subset": BASE, "label": "Base model", "fraction": 0.0}
        for protocol in protocols:
            yield _row(root, BASE, named | {"protocol": protocol, "seed": seed}, Cost())
    for training in finished:
        subset = training.subset
        named = {"arm": subset.name, "subset": subset.key, "label": subset.label, "fraction": _fraction(root, training)}
        for protocol in protocols if subset.name == "full" else [training.protocol]:
            told = named | {"protocol": protocol, "seed": seed}
            yield _row(root, training.key, told, choosing_cost(root, subset)) | {"same_as": _same_as(root, training)}


def _row(root: Path, key: str, named: dict, choosing: Cost) -> dict:
    record = read_json(root / f"evaluations/{key}.json")
    return named | record | whole_cost(choosing, Cost(record["train_seconds"], record["train_flops"]))


def whole_cost(choosing: Cost, training: Cost) -> dict[str, float]:
    """What choosing and training took, and both together, as the rows have it."""
    return {
        f"{what}_{unit}": getattr(cost, unit)
        for what, cost in {"select": choosing, "train": training, "total": choosing + training}.items()
        for unit in ("seconds", "flops")
    }


def choosing_cost(root: Path, subset: Subset) -> Cost:
    """Of warm-up, scoring or judging, and the choice itself, as the workspace is now."""
    by, stages = subset.arm.by, [f"select-{subset.key}"]
    if isinstance(by, Scores):
        stages += [f"score-{by.name}", *(["warmup"] if "proxy-warm" in by.reads else [])]
    manifests = [read_json(root / manifest_path(stage)) for stage in stages]
    return sum((Cost(one["seconds"], one["flops"]) for one in manifests), Cost())


def _fraction(root: Path, training: Training) -> float:
    """The share that was asked for; where the arm decides it, the one that it was trained on."""
    subset = training.subset
    if subset.share and not subset.arm.whole:
        return subset.share
    pool = read_json(root / manifest_path(f"select-{subset.key}"))["metrics"]["pool"]
    return read_json(root / f"evaluations/{training.key}.json")["samples"] / pool


def _same_as(root: Path, training: Training) -> str | None:
    """The training that this one was not made anew beside, because it is on the same samples."""
    for kind in ("sft", "trial"):
        path = root / manifest_path(f"{kind}-{training.key}")
        if path.exists() and "labels" in (manifest := read_json(path)):
            return manifest["labels"].get("same_as")
    return None
