"""What answered questions are worth, suggested or drawn: `make bench-anchors` → metrics/bench_anchors.json.

On the built-in world handmath with the faulty teacher. The pool is scored by 100 anchors; then questions of it are
answered by the world's truth, which nothing that chooses them sees, and added; then it is scored and selected from
anew, and the target is trained. What is told is the part of the gap between Full-SFT and the oracle that is recovered,
seed by seed, both of them as they are with 100 anchors. A run in a folder that is named goes on where it stood.
"""

import argparse
import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flows.cli.init import init_world
from flows.compare import FOLDER, compare
from flows.display import console
from flows.workspaces import prepare, seed_workspace
from ost.anchors import question_of, suggestions
from ost.comparison.summary import estimate
from ost.data import Dataset, Sample, write_samples
from ost.scoring import read_scores
from ost.store import read_json, read_table, write_json
from ost.worlds import handmath
from tasks.pipeline import anchors_beside
from tasks.settings import load_params

BASE, ADDED = "anchors-added-0", "anchors-added.parquet"
HOW = ("suggested", "drawn")
GOAL, BETTER = 0.85, 0.05
"""Of the gap with 50 suggested questions, and more than with 50 drawn ones."""


def bench(
    root: Path, counts: Iterable[int], seeds: Iterable[int], fraction: float, assignments: list[str], like: str | None
) -> dict:
    """Gap recovery with so many added anchors, for each way to choose them."""
    if not (root / "params.yaml").exists():
        init_world(root, "handmath")
    common = [f"compare.seeds={list(seeds)}", f"compare.fractions=[{fraction}]", "compare.protocols=[B]", *assignments]
    compare(str(root), BASE, ["compare.arms=[full, lookahead, oracle]", *common], like)
    base = _accuracies(root / FOLDER / BASE)
    points = [{"how": how, "added": 0, **_recovered(base, base)} for how in HOW]
    for count, how in itertools.product(counts, HOW):
        name = f"anchors-{how}-{count}"
        own = ["compare.arms=[lookahead]", f"data.added_anchors={ADDED}", *common]
        folder, other = root / FOLDER / name, root / FOLDER / BASE
        prepare(folder, root, own, other)
        for seed in seeds:
            place = seed_workspace(folder, seed, other)
            if not (place / ADDED).exists():
                write_samples(place / ADDED, _answered(other / f"seed-{seed}", how, count, seed))
        compare(str(root), name, own, BASE)
        points.append({"how": how, "added": count, **_recovered(_accuracies(folder), base)})
        console.print_json(data=points[-1])
    return {"anchors": load_params(root / FOLDER / BASE / "params.yaml").world.anchors, "points": points} | _goals(
        points
    )


def _answered(workspace: Path, how: str, count: int, seed: int) -> list[Sample]:
    """Questions of a scored workspace's pool, chosen without the truth, with the truth as their answer."""
    pool, anchors = Dataset(workspace / "data/pool"), Dataset(workspace / "data/anchors")
    if how == "suggested":
        scores = read_scores(workspace / "scores/lookahead.parquet")
        found = suggestions(scores, read_table(workspace / anchors_beside("lookahead")), pool, anchors)
        questions = list(itertools.islice(found, count))
    else:
        places = np.random.default_rng([seed, count]).permutation(len(pool))[:count]
        questions = [question_of(sample) for sample in pool.at(places.tolist())]
    size = load_params(workspace / "params.yaml").world.pool
    right = {question_of(one).id: one for one in map(handmath.to_sample, handmath.draw("pool", size, seed))}
    return [right[question.id] for question in questions]


def _accuracies(folder: Path) -> dict[str, dict[int, float]]:
    """Arm → seed → accuracy of a comparison."""
    found: dict[str, dict[int, float]] = {}
    for row in read_json(folder / "metrics/arms.json"):
        found.setdefault(row["arm"], {})[row["seed"]] = row["accuracy"]
    return found


def _recovered(found: dict, base: dict) -> dict:
    full, oracle = base["full"], base["oracle"]
    parts = {
        seed: (one - full[seed]) / gap for seed, one in found["lookahead"].items() if (gap := oracle[seed] - full[seed])
    }
    return {"recovered": parts, "accuracy": found["lookahead"], **estimate(list(parts.values()))}


def _goals(points: list[dict]) -> dict:
    """Whether 50 suggested questions recover GOAL of the gap, and what they gain over 50 drawn ones."""
    known = {point["how"]: point["recovered"] for point in points if point["added"] == 50}
    if not known:
        return {}
    gain = estimate([known["suggested"][seed] - known["drawn"][seed] for seed in known["suggested"]])
    mean = float(np.mean(list(known["suggested"].values())))
    return {"gain_of_50": gain, "reached": {"recovered": mean >= GOAL, "gain": gain["mean"] >= BETTER}}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the pool that is kept")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of params.yaml; repeatable")
    parser.add_argument("--workspace", type=Path, help="folder to go on in; else one that is gone afterwards")
    parser.add_argument("--like", help="a comparison in that workspace to start from, with the same seeds")
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_anchors.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anchors-") as name:
        root = (arguments.workspace or Path(name) / "workspace").resolve()
        result = bench(root, arguments.counts, arguments.seeds, arguments.fraction, arguments.set, arguments.like)
    write_json(arguments.out, result)
    console.print_json(data=result)


if __name__ == "__main__":
    main()
