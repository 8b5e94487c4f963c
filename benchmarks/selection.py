"""How choosing for breadth grows with the pool: `make bench-selection` → metrics/bench_selection.json.

A pool is a table of scores and sketches of clusters that differ in size and in width. 20 % of it are kept among the
best 40 %, from reading the table to the selection; each measurement is a process of its own, so that its peak memory is
its own. What dividing costs is measured where it is not needed: on 8,000 candidates, half of which are kept, in parts
of 1,000 instead of at once.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from flows.display import console
from ost.selection import kept_ids, select, vectors
from ost.selection.cover import cover
from ost.selection.spread import spread
from ost.store import lists, read_json, read_table, write_json, write_table

STRATEGIES = ("draw", "spread", "cover")
SIZES, WIDTH = (8_000, 32_768, 350_000), 512
KEPT, AMONG = 0.2, 0.4
CLUSTER = 20
"""Mean samples of a cluster."""
CHECKED, PART = 8_000, 1_000
BLOCK = 32_768


def sketches_of(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Sketches (n, k), float16, of clusters whose sizes and widths differ."""
    rng, kinds = np.random.default_rng(seed), max(1, count // CLUSTER)
    centres = rng.normal(size=(kinds, width)).astype(np.float32)
    kind = rng.choice(kinds, count, p=rng.dirichlet(np.full(kinds, 0.5)))
    noise, found = rng.uniform(0.3, 2, kinds), np.empty((count, width), np.float16)
    for start in range(0, count, BLOCK):
        own = kind[start : start + BLOCK]
        found[start : start + BLOCK] = centres[own] + noise[own, None] * rng.normal(size=(len(own), width))
    return found


def prepare(folder: Path, samples: int, width: int) -> None:
    """A score table."""
    utility = np.random.default_rng(1).normal(size=samples)
    columns = {"id": [f"{index:08d}" for index in range(samples)], "utility": utility, "toxic": utility < -2}
    write_table(folder / f"{samples}.parquet", pa.table(columns | {"sketch": lists(sketches_of(samples, width))}))


def measure(folder: Path, samples: int, strategy: str) -> dict[str, float]:
    """Seconds and peak memory of one selection."""
    start = time.perf_counter()
    chosen = select(read_table(folder / f"{samples}.parquet"), KEPT, strategy, among=AMONG)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak, "kept": len(kept_ids(chosen))}


def loss(candidates: int, width: int) -> dict[str, Any]:
    """What dividing costs, beside what choosing is worth at all: a draw."""
    sketches, size = sketches_of(candidates, width), candidates // 2
    drawn = np.random.default_rng(2).choice(candidates, size, replace=False)
    found: dict[str, list] = {"undivided": [cover(sketches, size), *spread(sketches, size)]}
    vectors.PART = PART
    found["divided"] = [cover(sketches, size), *spread(sketches, size)]
    cosine = vectors.unit(sketches)
    cosine = cosine @ cosine.T
    worth = {name: _worth(cosine, covering) for name, (covering, *_) in found.items()}
    whole = set(found["undivided"][1].tolist())
    return {
        "candidates": candidates,
        "kept": size,
        "part": PART,
        "cover_worth_divided": worth["divided"] / worth["undivided"],
        "cover_worth_drawn": _worth(cosine, drawn) / worth["undivided"],
        **{f"spread_threshold_{name}": threshold for name, (_, _, threshold) in found.items()},
        **{f"spread_nearest_kept_{name}": _nearest(cosine, rows) for name, (_, rows, _) in found.items()},
        "spread_nearest_kept_drawn": _nearest(cosine, drawn),
        "spread_same_kept": len(whole & set(found["divided"][1].tolist())) / size,
    }


def _worth(cosine: np.ndarray, rows: np.ndarray) -> float:
    """What facility location maximizes, a candidate."""
    return float(np.maximum(cosine[:, rows], 0).max(axis=1).mean())


def _nearest(cosine: np.ndarray, rows: np.ndarray) -> float:
    """Mean cosine of a kept one with the nearest other."""
    own = cosine[np.ix_(rows, rows)]
    np.fill_diagonal(own, -1)
    return float(own.max(axis=1).mean())


def bench(folder: Path, sizes: Sequence[int], width: int) -> dict[str, Any]:
    """All figures."""
    growth: dict[str, list[dict]] = {strategy: [] for strategy in STRATEGIES}
    for samples in sizes:
        apart("prepare", folder, samples, width)
        for strategy in STRATEGIES:
            growth[strategy].append({"samples": samples} | apart("measure", folder, samples, strategy))
            console.print(f"{strategy}, {samples:,}: {growth[strategy][-1]['seconds']:.1f} s", highlight=False)
        (folder / f"{samples}.parquet").unlink()
    return {
        "width": width,
        "fraction": KEPT,
        "among": AMONG,
        "part": vectors.PART,
        "strategies": growth,
        "loss": apart("loss", folder, CHECKED, width),
    }


def apart(step: str, folder: Path, *arguments: Any) -> Any:
    """Run one step in a process of its own."""
    out = folder / "step.json"
    command = [sys.executable, "-m", "benchmarks.selection", "--step", step, str(folder), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step} {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return read_json(out)


def _step(step: str, folder: Path, samples: int, argument: str) -> None:
    result: Any = None
    if step == "prepare":
        prepare(folder, samples, int(argument))
    elif step == "measure":
        result = measure(folder, samples, argument)
    else:
        result = loss(samples, int(argument))
    write_json(folder / "step.json", result)


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"Keeping {KEPT:.0%} among {AMONG:.0%}, sketches of {result['width']}")
    for name in ("strategy", "samples", "seconds", "peak MB"):
        table.add_column(name, justify="right")
    for strategy, points in result["strategies"].items():
        for point in points:
            cells = [f"{point['samples']:,}", f"{point['seconds']:.1f}", f"{point['peak_mb']:,.0f}"]
            table.add_row(strategy, *cells)
    console.print(table)
    console.print_json(data=result["loss"])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="pool sizes")
    parser.add_argument("--width", type=int, default=WIDTH, help="numbers of a sketch")
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_selection.json"))
    arguments = parser.parse_args()
    if arguments.step:
        step, folder, samples, argument = arguments.step
        _step(step, Path(folder), int(samples), argument)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = bench(Path(folder), arguments.sizes, arguments.width)
    write_json(arguments.out, result)
    _show(result)


if __name__ == "__main__":
    main()
