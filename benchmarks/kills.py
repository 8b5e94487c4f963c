"""Fifty SIGKILLs at random moments of a sharded run: `make bench-kills` → metrics/bench_kills.json.

A run is started again and again, and killed at a random moment after it has begun to score, until it has been killed as
often as asked for; then it is let finish. The table must be that of an undisturbed run, to the byte.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from benchmarks.scoring import apart
from flows.display import console
from ost.scoring import Job, score_file
from ost.settings import Score
from ost.store import digest, write_json, write_table

SAMPLES, SHARD = 16384, 64
LONGEST = 2.0
"""Seconds that a run scores before it is killed, at most."""


def score(folder: Path, store: Path, out: Path, begun: Event) -> None:
    """The run that is killed."""
    torch.set_num_threads(1)
    settings = Score(method="gradient", checks=0, shard_size=SHARD)
    job = Job(folder / f"pool-{SAMPLES}.parquet", folder / "anchors.parquet", folder / "proxy", store, settings)
    begun.set()
    write_table(out, score_file(job).table)


def bench(folder: Path, kills: int, seed: int) -> dict:
    """Kill, start again, and compare."""
    apart("prepare", folder, str(SAMPLES))
    _start(folder, folder / "whole", folder / "whole.parquet").join()
    moments, killed, published = random.Random(seed), 0, []
    out, store = folder / "killed.parquet", folder / "killed"
    while killed < kills:
        process = _start(folder, store, out)
        time.sleep(moments.uniform(0.0, LONGEST))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        published.append(len(list(store.rglob("*.parquet"))))
        if out.exists():
            sys.exit(f"finished after {killed} kills: ask for fewer, or make the pool larger")
    _start(folder, store, out).join()
    return {
        "samples": SAMPLES,
        "shard_size": SHARD,
        "kills": killed,
        "seed": seed,
        "shards_at_each_kill": published,
        "identical": out.read_bytes() == (folder / "whole.parquet").read_bytes(),
        "digest": digest(out),
    }


def _start(folder: Path, store: Path, out: Path) -> BaseProcess:
    """A run that has begun: forked, so that loading the libraries is not most of it."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=score, args=(folder, store, out, begun))
    process.start()
    begun.wait()
    return process


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_kills.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = bench(Path(folder), arguments.kills, arguments.seed)
    write_json(arguments.out, result)
    console.print_json(data=result)


if __name__ == "__main__":
    main()
