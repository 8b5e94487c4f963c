"""What each selection strategy gains over plain top-k: `python -m flows.selection_study --seeds 0 1 2 3 4`.

For each seed a workspace under runs/ is brought up to the scores, by a proxy warmed up for 5 % and by one for 25 % of
an SFT run. Then the target is trained on what each strategy chooses at each fraction, under protocol B, and evaluated.
Each finished run is a line of the workspace's study.jsonl, so a study that was stopped goes on where it stood;
`--summarise` runs nothing and sums up what there is.

Writes docs/selection.json, the runs and their summary, and docs/selection.png. The truth about the pool is read after
the selection alone, to report purity. Full-SFT is `--strategies random --fractions 1`.
"""

import argparse
import json
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from scipy import stats

from flows.display import console
from flows.parameters import set_params
from ost.report import strategies_png
from ost.store import read_json, read_table, write_json

RANDOM = "random"
STRATEGIES = ("top", "quota", "vote", "cover", RANDOM)
STAGES = ("world", "base@target", "base@proxy", "ingest")
"""What both warm-ups of a seed share."""
WARMUPS = {"": 0.05, "-w25": 0.25}
"""Suffix of a workspace's name → share of an SFT run's steps that its proxy was warmed up for."""
STEPS = 400
"""Unless others are asked for."""


def study(
    root: Path, seeds: list[int], fractions: list[float], strategies: list[str], workers: int, steps: int = STEPS
) -> dict:
    """Run what has not been run, and return what is written to docs/selection.json."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        ready = [pool.submit(_prepare, root, seed) for seed in seeds]
        for future in as_completed(ready):
            console.print(f"seed {future.result()}: scored", highlight=False)
        # The fraction that matters most first: a study that is stopped early has whole columns.
        wanted = [(seed, strategy, share, steps) for share in fractions for seed in seeds for strategy in strategies]
        runs = [pool.submit(_run, root, *one) for one in wanted if not _finished(root, *one)]
        for done, future in enumerate(as_completed(runs), start=1):
            console.print(f"{done}/{len(runs)} {_line(future.result())}", highlight=False)
    return summarise(root, seeds, steps)


def summarise(root: Path, seeds: list[int], steps: int = STEPS) -> dict:
    """All rows, and for each strategy and fraction its mean and its gain over `top`, paired by seed."""
    rows = [row for seed in seeds for row in _rows(_workspace(root, seed)) if row["steps"] == steps]
    rows.sort(key=lambda row: (row["fraction"], STRATEGIES.index(row["strategy"]), row["seed"]))
    kinds = dict.fromkeys((row["fraction"], row["strategy"]) for row in rows)
    return {
        "steps": steps,
        "summary": [_summary(rows, fraction, strategy) for fraction, strategy in kinds],
        "detection": [_detection(root, seed, suffix) for suffix in WARMUPS for seed in seeds],
        "runs": rows,
    }


def _summary(rows: list[dict], fraction: float, strategy: str) -> dict:
    own, top = (
        {row["seed"]: row for row in rows if row["fraction"] == fraction and row["strategy"] == name}
        for name in (strategy, "top")
    )
    gains = np.array([row["accuracy"] - top[seed]["accuracy"] for seed, row in own.items() if seed in top])
    accuracies = [row["accuracy"] for row in own.values()]
    return {
        "strategy": strategy,
        "fraction": fraction,
        "seeds": list(own),
        "accuracies": accuracies,
        "accuracy": float(np.mean(accuracies)),
        "accuracy_sd": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
        "purity": float(np.mean([row["purity"] for row in own.values()])),
        "gain": float(gains.mean()) if len(gains) else None,
        "interval": _interval(gains) if strategy != "top" else [0.0, 0.0],
    }


def _interval(gains: np.ndarray) -> list[float | None]:
    """95 % t interval of the mean; None for a single seed."""
    if len(gains) < 2:
        return [None, None]
    reach = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return [float(gains.mean() - reach), float(gains.mean() + reach)]


def _prepare(root: Path, seed: int) -> int:
    """Bring a seed's two workspaces up to the scores."""
    from tasks.stages import execute

    base = _workspace(root, seed)
    for suffix, fraction in WARMUPS.items():
        workspace = _workspace(root, seed, suffix)
        workspace.mkdir(parents=True, exist_ok=True)
        if not (workspace / "params.yaml").exists():
            shutil.copyfile(root / "params.yaml", workspace / "params.yaml")
        set_params(workspace / "params.yaml", [f"seed={seed}", f"warmup.fraction={fraction}"])
        if suffix:
            for name in ("data", "models/target", "models/proxy"):
                shutil.copytree(base / name, workspace / name, dirs_exist_ok=True)
        for stage in (*(() if suffix else STAGES), "warmup", "score"):
            if not _manifest(workspace, stage).exists():
                execute(stage, workspace)
    return seed


def _run(root: Path, seed: int, strategy: str, fraction: float, steps: int = STEPS) -> dict:
    """Select, train, evaluate."""
    from ost.data import read_samples
    from ost.evaluation import evaluate
    from ost.models import load_checkpoint
    from ost.selection import draw, kept_ids, select
    from ost.training import Recipe, train
    from tasks.context import load_params
    from tasks.stages import settle

    settle(1)
    started, workspace = time.perf_counter(), _workspace(root, seed)
    scores, params = read_table(workspace / "scores/utility.parquet"), load_params(workspace / "params.yaml")
    chosen = draw(scores, fraction, seed) if strategy == RANDOM else select(scores, fraction, strategy)
    kept = kept_ids(chosen)
    pool = {sample.id: sample for sample in read_samples(workspace / "data/pool.parquet")}
    target, sft = load_checkpoint(workspace / "models/target"), params.sft
    recipe = Recipe(**(sft.model_dump() | {"steps": steps, "seed": seed}))
    train(target, [pool[name] for name in kept], recipe)
    benchmark = list(read_samples(workspace / "data/benchmark.parquet"))
    settings = params.evaluate.model_dump(include={"match", "batch_size", "max_new_tokens"})
    row = {"seed": seed, "strategy": strategy, "fraction": fraction, "steps": steps, "samples": len(kept)}
    row |= {"accuracy": evaluate(target, benchmark, **settings).accuracy, "purity": _purity(workspace, kept)}
    row |= {"tasks": _mix([pool[name].task for name in kept]), "seconds": time.perf_counter() - started}
    with (workspace / "study.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row


def _mix(tasks: list[str]) -> dict[str, float]:
    """Share of each task."""
    return {task: count / len(tasks) for task, count in sorted(Counter(tasks).items())}


def _purity(workspace: Path, kept: list[str]) -> float:
    truth = read_table(workspace / "data/truth.parquet")
    wrong = truth.filter(pc.is_in(truth["id"], pa.array(kept)))["wrong"]
    return 1 - pc.mean(wrong.cast(pa.float64())).as_py()


def _detection(root: Path, seed: int, suffix: str) -> dict:
    """What the scores of one workspace say about the truth, and what the toxic flag's false discoveries are."""
    from ost.audit import audit

    workspace = _workspace(root, seed, suffix)
    scores = read_table(workspace / "scores/utility.parquet")
    truth = read_table(workspace / "data/truth.parquet")
    wrong = truth["wrong"].take(pc.index_in(scores["id"], truth["id"].combine_chunks())).to_numpy()
    found = audit(scores["utility"].to_numpy(), scores["toxic"].to_numpy(), wrong, {})
    precision = found["precision"]
    return {
        "seed": seed,
        "warmup": WARMUPS[suffix],
        "auroc": found["auroc"],
        "flagged": found["flagged"] / len(scores),
        "recall": found["recall"],
        "false_discovery_rate": 0.0 if precision is None else 1 - precision,
        "checks": read_json(workspace / "metrics/score.json")["checks"],
    }


def _workspace(root: Path, seed: int, suffix: str = "") -> Path:
    return root / f"runs/selection-seed-{seed}{suffix}"


def _manifest(workspace: Path, stage: str) -> Path:
    from tasks.stages import STAGES as KNOWN

    name, _, key = stage.partition("@")
    return workspace / KNOWN[name][1].format(key=key)


def _rows(workspace: Path) -> list[dict[str, Any]]:
    """A row a run, though two studies at once may have done it twice; one without its steps is of the usual ones."""
    path = workspace / "study.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [{"steps": STEPS} | json.loads(line) for line in lines]
    return list({(row["strategy"], row["fraction"], row["steps"]): row for row in rows}.values())


def _finished(root: Path, seed: int, strategy: str, fraction: float, steps: int = STEPS) -> bool:
    wanted = {"seed": seed, "strategy": strategy, "fraction": fraction, "steps": steps}
    return any(wanted.items() <= row.items() for row in _rows(_workspace(root, seed)))


def _line(row: dict) -> str:
    what = f"{row['strategy']} {row['fraction']:.0%}, seed {row['seed']}"
    return f"{what}: {row['accuracy']:.1%}, purity {row['purity']:.2f}"


def _show(summary: Iterable[dict]) -> None:
    table = Table(title="Accuracy, protocol B; gain over top-k with its 95 % interval, paired by seed")
    for name in ("fraction", "strategy", "seeds", "accuracy", "gain", "interval", "purity"):
        table.add_column(name, justify="right")
    for entry in summary:
        gain, (low, high) = entry["gain"], entry["interval"]
        figures = [
            "" if gain is None else f"{100 * gain:+.1f}",
            "" if low is None else f"{100 * low:+.1f} … {100 * high:+.1f}",
        ]
        seeds = str(len(entry["seeds"]))
        cells = [f"{entry['fraction']:.0%}", entry["strategy"], seeds, f"{entry['accuracy']:.1%}", *figures]
        table.add_row(*cells, f"{entry['purity']:.2f}")
    console.print(table)


def main() -> None:
    """Parse the command line, run, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.2, 0.1, 0.5, 0.05])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--summarise", action="store_true", help="run nothing")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="folder of params.yaml and runs/")
    parser.add_argument("--out", type=Path, help="docs/selection.json of --root; the chart goes beside it")
    chosen = parser.parse_args()
    root = chosen.root.resolve()
    if chosen.summarise:
        result = summarise(root, chosen.seeds, chosen.steps)
    else:
        result = study(root, chosen.seeds, chosen.fractions, chosen.strategies, chosen.workers, chosen.steps)
    out = chosen.out or root / "docs/selection.json"
    write_json(out, result)
    strategies_png(result["summary"], out.with_suffix(".png"))
    _show(result["summary"])


if __name__ == "__main__":
    main()
