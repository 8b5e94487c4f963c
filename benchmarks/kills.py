"""SIGKILLs at random moments: `make bench-kills` → metrics/bench_kills.json.

A scoring by shards, and a whole `ost curate`, are started again and again, each time killed at a random moment, until
they have been killed as often as asked for. What they leave must be what an undisturbed run leaves, to the byte; each
command after a kill must go on by itself; and nothing that a killed one started may be left.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
import yaml

from benchmarks.recuration import make_workspace
from benchmarks.scoring import apart
from flows.descendants import MARK, marked
from flows.display import console
from ost.scoring import Job, score_file
from ost.settings import Lookahead, Score
from ost.store import digest, write_json, write_table
from stack.processes import BIN

SAMPLES, SHARD = 16384, 64
LONGEST = 6.0
"""Seconds that a scoring goes on before it is killed, at most."""
CURATION = [
    "world.pool=400",
    "world.anchors=20",
    "world.benchmark=60",
    "base.target_steps=20",
    "base.proxy_steps=20",
    "score.checks=8",
    "score.shard_size=32",
    "score.lookahead.most_steps=8",
    "select.clean_below=0",  # barely trained models find no harm
    "sft.steps=40",
]
"""Small, so that what is killed is often the writing of something."""
LONGEST_CURATION = 30.0
"""Seconds after its start within which a curation is killed."""
OWN = uuid.uuid4().hex
"""The mark by which what a curation starts is found, whatever runs beside it."""
AWHILE = 20.0
"""Seconds within which all that a killed command has started has to be gone."""


def bench_scoring(folder: Path, kills: int, seed: int) -> dict:
    """Kill a scoring, start it again, and compare."""
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


def score(folder: Path, store: Path, out: Path, begun: Event) -> None:
    """The scoring that is killed."""
    torch.set_num_threads(1)
    settings = Score(method="lookahead", checks=0, shard_size=SHARD, lookahead=Lookahead(steps=4))
    job = Job(folder / f"pool-{SAMPLES}.parquet", folder / "anchors.parquet", folder / "proxy", store, settings)
    begun.set()
    write_table(out, score_file(job).table)


def _start(folder: Path, store: Path, out: Path) -> BaseProcess:
    """A scoring that has begun: forked, so that loading the libraries is not most of it."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=score, args=(folder, store, out, begun))
    process.start()
    begun.wait()
    return process


def bench_curations(folder: Path, kills: int, seed: int) -> dict:
    """Kill curations until they have been killed so often; each that ends is compared with an undisturbed one."""
    moments, seconds, left, equal = random.Random(seed), [], 0, []
    undisturbed = _undisturbed(folder / "undisturbed")
    while len(seconds) < kills:
        root = folder / f"killed-{len(equal)}"
        make_workspace(root, CURATION)
        while _curation(root, moment := moments.uniform(0.0, LONGEST_CURATION) if len(seconds) < kills else None):
            seconds.append(moment)
            left += _left_after(AWHILE)
            console.print(f"kill {len(seconds)} after {moment:.1f} s, {left} process(es) left")
        equal.append(_made(root) == undisturbed)
        shutil.rmtree(root)
        console.print(f"curation {len(equal)}: {'as' if equal[-1] else 'NOT AS'} undisturbed")
    return {"kills": len(seconds), "seed": seed, "seconds": seconds, "identical": equal, "processes_left": left}


def _undisturbed(root: Path) -> dict[str, str]:
    make_workspace(root, CURATION)
    _curation(root, None)
    return _made(root)


def _curation(root: Path, moment: float | None) -> bool:
    """Run `ost curate`, and kill it at a moment; returns whether it was killed. Raises where it fails by itself."""
    log = root.with_suffix(".log")
    with log.open("w") as said:
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {MARK: OWN}
        process = subprocess.Popen([BIN / "ost", "curate"], cwd=root, env=environment, stdout=said, stderr=said)
        try:
            code = process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait() < 0
    if code:
        raise RuntimeError(f"ost curate ended with {code}:\n{log.read_text()}")
    return False


def _left_after(seconds: float) -> int:
    """How many processes there still are, so many seconds later, that a killed curation started."""
    deadline = time.monotonic() + seconds
    while (left := len(marked(OWN))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _made(root: Path) -> dict[str, str]:
    """The digest of all that a curation makes, as DVC has it, but for what holds times."""
    stages = yaml.load((root / "dvc.lock").read_text(), yaml.CSafeLoader)["stages"]
    made = {one["path"]: one["md5"] for stage in stages.values() for one in stage.get("outs", [])}
    return {
        path: md5 for path, md5 in made.items() if not path.startswith(("metrics/", "report/")) and "json" not in path
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of a scoring")
    parser.add_argument("--curations", type=int, default=40, help="kills of `ost curate`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_kills.json"))
    arguments = parser.parse_args()
    result = {}
    for name, count, bench in (
        ("scoring", arguments.kills, bench_scoring),
        ("curate", arguments.curations, bench_curations),
    ):
        if count:
            with tempfile.TemporaryDirectory() as folder:
                result[name] = bench(Path(folder), count, arguments.seed)
            write_json(arguments.out, result)
    console.print_json(data=result)


if __name__ == "__main__":
    main()
