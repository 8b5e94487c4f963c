"""Memory and speed of the scoring methods beside an earlier build's: `make bench-memory` → metrics/bench_memory.json.

`narrow`: a model of few weights with a real vocabulary of 151,936, and samples of about 450 tokens, so that what a pass
holds beside the weights is what it would hold of a large model's logits. `training`: a step by this build on 32
samples of that model by an adapter, beside the earlier one's of all weights. `demo`: the small proxy of the built-in
world, where speed is what counts. The earlier build's search for the number of steps ended too soon there, so
`lookahead` is also measured with a number given. Both builds get the same files and one CPU thread, and each
measurement is a process of its own. The earlier build is read from this repository's history. In `narrow` both take
eight samples at once, about what this build takes by itself: with the 64 that it took by itself, the earlier build
would need about 100 GB.

Peak: the most resident memory of that process while it scores, less what was resident once the weights were loaded.
Seconds: scoring, from the loaded proxy to the table, with what a method prepares from the anchors. Ratios are this
build's to the earlier one's: a peak of 0.125 is an eighth, a speed of 2 is twice as fast. Spearman is between their
utilities.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.qwen_shape import NARROW, model_of, processor_of, samples_of
from flows.display import console
from ost.data import write_samples
from ost.models import Checkpoint
from ost.store import read_json, write_json

ROOT = Path(__file__).parents[1]
BEFORE = "d00599e"
"""The build that this one is held against."""
NOW = "now"

BUILDS = {
    BEFORE: """
from ost.data import read_samples
from ost.scoring.losses import losses_of
from ost.training import Recipe, train

def trained(checkpoint, pool, changes):
    train(checkpoint, pool[: changes["batch_size"]], Recipe(steps=1, learning_rate=1e-3, **changes))

def samples(path): return list(read_samples(path))
def sized(size, pool): return {"batch_size": size} if size else {}
""",
    NOW: """
from ost.data import Dataset
from ost.execution.batches import padded_tokens
from ost.execution.forward import losses_of
from ost.execution.loader import Loader
from ost.models import add_adapter
from ost.settings import Execution
from ost.training import Recipe, train

def trained(checkpoint, pool, changes):
    add_adapter(checkpoint.model, 16, 0)
    ahead = Loader.ahead
    def timed(self, batches):
        waited, coming = [], ahead(self, batches)
        while True:
            began = time.perf_counter()
            found = next(coming, None)
            waited.append(time.perf_counter() - began)
            if found is None:
                return Path("waited.txt").write_text(str(sum(waited[1:])))  # behind the first, a process starts
            yield found
    Loader.ahead = timed
    recipe = Recipe(steps=1, learning_rate=1e-3, **changes)
    train(checkpoint, pool[: changes["batch_size"]], recipe, execution=Execution(encoders=1))

def samples(path): return list(Dataset(path))
def sized(size, pool):
    tokens = size * padded_tokens(pool) // len(pool)
    return {"execution": Execution(batch_tokens=tokens)} if size else {}
""",
}
"""All that differs between the builds: how they read samples, and take so many of them at once (0: as they like)."""

MEASURE = """
import json, sys, time
from pathlib import Path
import torch
import ost

def resident(field):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 2**20

def main():
    folder, out, kind, size, changes = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4]), json.loads(sys.argv[5])
    torch.set_num_threads(1)
    proxy = ost.load_checkpoint(folder / "proxy")
    pool, anchors = samples(folder / "pool.parquet"), samples(folder / "anchors.parquet")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    weights, began = resident("VmRSS"), time.perf_counter()
    if kind == "training":
        trained(proxy, pool, changes)
        utility, steps, pool = [], 1, pool[: changes["batch_size"]]
    elif kind == "forward":
        utility, steps = losses_of(pool, proxy, **sized(size, pool)).tolist(), None
    else:
        scored = ost.score(pool, anchors, proxy, checks=0, **sized(size, pool), **changes)
        utility, steps = scored.table["utility"].to_pylist(), scored.plan and scored.plan.steps
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "samples_per_second": len(pool) / seconds, "peak_gib": resident("VmHWM") - weights}
    Path(out).write_text(json.dumps(found | {"steps": steps, "utility": utility}))

if __name__ == "__main__":
    main()
"""

STEPS = {"method": "lookahead", "lookahead": {"steps": 2}, "folds": 2}
FIRST = {"layers": "last:1"}
NARROW_KINDS: dict[str, dict[str, Any]] = {
    "forward": {},
    "transposed": {"method": "transposed", "folds": 2},
    "lookahead": STEPS,
    "lookahead (last:1)": STEPS | FIRST,
    "gradient (last:1)": {"method": "gradient", "folds": 2} | FIRST,
}
DEMO_KINDS: dict[str, dict[str, Any]] = {
    "forward": {},
    "transposed": {"method": "transposed", "folds": 2},
    "lookahead": {"method": "lookahead"},
    "lookahead (30 steps)": {"method": "lookahead", "lookahead": {"steps": 30}},
    "lookahead (last:1)": {"method": "lookahead"} | FIRST,
    "gradient": {"method": "gradient", "detail": "groups", "sketch": 0},
    "gradient (folds)": {"method": "gradient", "detail": "folds"},
}
"""What is asked for, by what it is called; `forward` is the samples' losses alone."""
BATCH, POOL, ANCHORS = 8, 8, 4
"""Of `narrow`: samples of one pass, in the pool, and trusted ones."""
DEMO_POOL, ROUNDS = 8000, 3
"""Of `demo`: samples, as many as the demo has, and how often each build takes its turn; the median counts."""


def measure(trees: Mapping[str, Path], build: str, folder: Path, kind: str, size: int, changes: dict) -> dict[str, Any]:
    """One measurement by the code of one tree; a batch that is killed or raises gives `error` alone."""
    script, out = folder / f"measure_{build}.py", folder / "found.json"
    script.write_text(BUILDS[build] + MEASURE)
    out.unlink(missing_ok=True)
    command = [sys.executable, str(script), str(folder), str(out), kind, str(size), json.dumps(changes)]
    environment = os.environ | {"PYTHONPATH": str(trees[build]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        found = {"error": last[0][:300]}
    else:
        found = read_json(out)
    shown = found.get("error") or f"{found['samples_per_second']:,.2f} samples/s, {found['peak_gib']:.2f} GiB"
    console.print(f"{folder.name} · {kind} · {build} · batch {size or 'by default'}: {shown}")
    return found


Measured = Callable[[str, Path, str, int, dict], dict[str, Any]]
"""`measure` with the trees given."""


def bench_narrow(measured: Measured, folder: Path) -> dict[str, Any]:
    """Each method once by each build."""
    folder.mkdir()
    processor = processor_of(NARROW)
    Checkpoint(model_of(NARROW, processor), processor).save(folder / "proxy")
    drawn = samples_of(NARROW, POOL + ANCHORS)
    write_samples(folder / "pool.parquet", drawn[:POOL])
    write_samples(folder / "anchors.parquet", drawn[POOL:])
    methods: dict[str, dict] = {}
    for kind, changes in NARROW_KINDS.items():
        methods[kind] = {build: measured(build, folder, kind, BATCH, changes) for build in BUILDS}
    sizes = {"samples": POOL, "anchors": ANCHORS, "batch_size": BATCH, "vocabulary": NARROW.text["vocab_size"]}
    return sizes | compared(methods)


def bench_training(measured: Measured, folder: Path) -> dict[str, Any]:
    """A step on 32 samples by an adapter, beside the earlier build's on eight: 32 would take it four times as much."""
    folder.mkdir()
    processor = processor_of(NARROW)
    Checkpoint(model_of(NARROW, processor), processor).save(folder / "proxy")
    drawn = samples_of(NARROW, 32)
    write_samples(folder / "pool.parquet", drawn)
    write_samples(folder / "anchors.parquet", drawn[:1])
    before = measured(BEFORE, folder, "training", 0, {"batch_size": BATCH})
    now = measured(NOW, folder, "training", 0, {"batch_size": 32})
    found = compared({"training": {BEFORE: before, NOW: now}})
    rates = {build: run["samples_per_second"] for build, run in ((BEFORE, before), (NOW, now))}
    found[f"speed_ratio_to_{BEFORE}"] = {"training": rates[NOW] / rates[BEFORE]}
    waited = float((folder / "waited.txt").read_text()) / now["seconds"]
    return {"samples": {BEFORE: BATCH, NOW: 32}, "share_of_time_waited_for_data": waited} | found


def bench_demo(measured: Measured, folder: Path, before: Path) -> dict[str, Any]:
    """The builds in turns, several rounds; the earlier build itself makes the proxy and the samples."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.scoring", "--step", "prepare", str(folder), str(folder / "step.json")]
    environment = os.environ | {"PYTHONPATH": str(before), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(DEMO_POOL)], cwd=before, env=environment, check=True, stdout=subprocess.DEVNULL)
    (folder / f"pool-{DEMO_POOL}.parquet").rename(folder / "pool.parquet")
    methods: dict[str, dict] = {}
    for kind, changes in DEMO_KINDS.items():
        rounds = [{build: measured(build, folder, kind, 0, changes) for build in BUILDS} for _ in range(ROUNDS)]
        methods[kind] = {build: median([one[build] for one in rounds]) for build in BUILDS}
    return {"samples": DEMO_POOL, "rounds": ROUNDS} | compared(methods)


def median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run that took the median of seconds, or the first that failed."""
    failed = [run for run in runs if "error" in run]
    return failed[0] if failed else sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


def compared(methods: Mapping[str, Mapping[str, dict]]) -> dict[str, Any]:
    """Ratios of this build to the earlier one, Spearman between them, and the figures themselves."""
    from scipy.stats import spearmanr

    names = (f"peak_ratio_to_{BEFORE}", f"speed_ratio_to_{BEFORE}", "spearman")
    peaks, speeds, ranks = ratios = ({}, {}, {})
    for kind, found in methods.items():
        before, now = found[BEFORE], found[NOW]
        if "error" in before or "error" in now:
            continue
        peaks[kind] = now["peak_gib"] / before["peak_gib"]
        speeds[kind] = before["seconds"] / now["seconds"]
        if before["utility"]:
            ranks[kind] = float(spearmanr(before["utility"], now["utility"]).statistic)
    figures = {
        kind: {way: {name: value for name, value in run.items() if name != "utility"} for way, run in found.items()}
        for kind, found in methods.items()
    }
    return dict(zip(names, ratios, strict=True)) | {"methods": figures}


def show(result: Mapping[str, Any]) -> None:
    """The ratios as a table."""
    for part in result.keys() & PARTS.keys():
        table = Table("method", "peak", "speed", "Spearman", title=f"{part}: this build to {BEFORE}")
        own = result[part]
        for kind, speed in own[f"speed_ratio_to_{BEFORE}"].items():
            peak, rank = own[f"peak_ratio_to_{BEFORE}"][kind], own["spearman"].get(kind)
            table.add_row(kind, f"{peak:.3f}", f"{speed:.2f}", "" if rank is None else f"{rank:.6f}")
        console.print(table)


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "narrow": bench_narrow,
    "training": bench_training,
    "demo": bench_demo,
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "metrics/bench_memory.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"before": BEFORE, "threads": 1, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), Path(name) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(before), BEFORE], cwd=ROOT, check=True)
        measured = functools.partial(measure, {NOW: ROOT, BEFORE: before})
        try:
            for part in options.parts:
                more = {"before": before} if part == "demo" else {}
                result[part] = PARTS[part](measured, folder / part, **more)
                write_json(options.out, result)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    show(result)


if __name__ == "__main__":
    main()
