"""Ingestion against the build before it and against bare decoding, and its memory: `make bench-ingest`.

A JSONL with 448 × 448 JPEGs of about 100 kB as files beside it. Each measurement is a process of its own; the earlier
build is read from this repository's history. Then a pool of 3 GiB goes the whole way, and 1 % of new data comes.
Writes metrics/bench_ingest.json.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.memory_of import Ran, run
from flows.display import console
from ost.models import Checkpoint, limit_image_tokens
from ost.store import write_json
from ost.worlds import handmath
from ost.worlds.tiny import PROXY, build_model

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "metrics/bench_ingest.json"
BEFORE = "d00599e"
"""The build that this one is held against."""
EDGE, DISTINCT, BYTES = 448, 128, 100_000
"""Of the images; so many are drawn, and copies told apart by a comment."""
SIZES = (2_000, 8_000, 64_000)
WORKERS = 2
WHOLE = 3 << 30
"""Bytes of the pool that goes the whole way."""

SHORT = ("--warmup-steps", "4", "--checks", "8", "--steps", "2", "--batch-size", "16")
"""Options of a scoring whose memory is asked for, and not what it finds."""

INGEST = """
import sys
from ost.settings import Data
from ost.ingestion import ingest
if __name__ == "__main__":
    pool, anchors, benchmark, model, into, workers = sys.argv[1:]
    found = ingest(pool, anchors, benchmark, model, into, Data(max_tokens=4096), workers=int(workers))
    print(found.counts["pool"]["kept"])
"""
INGEST_BEFORE = """
import sys
from ost.data import write_samples
from ost.ingestion import ingest
from ost.models import load_checkpoint
pool, anchors, benchmark, model, into, workers = sys.argv[1:]
found = ingest(pool, anchors, benchmark, load_checkpoint(model), max_tokens=4096, max_pixels=1 << 24)
for name in ("pool", "anchors", "benchmark"):
    write_samples(f"{into}/{name}.parquet", getattr(found, name))
print(len(found.pool))
"""
DECODE = """
import sys
from multiprocessing import Pool
from pathlib import Path
from PIL import Image
def decode(path):
    with Image.open(path) as image:
        image.convert("RGB")
if __name__ == "__main__":
    files, workers = sorted(Path(sys.argv[1]).iterdir())[: int(sys.argv[2])], int(sys.argv[3])
    with Pool(workers) as pool:
        for _ in pool.imap_unordered(decode, files, chunksize=64):
            pass
"""


def jpeg(number: int, size: int = BYTES) -> bytes:
    """A photograph-like picture: smooth shapes under noise, of about `size` bytes."""
    generator = np.random.default_rng(number)
    smooth = generator.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(smooth).resize((EDGE, EDGE), Image.Resampling.BICUBIC), dtype=np.float32)
    picture += generator.normal(0, 12, size=picture.shape)
    image, best = Image.fromarray(picture.clip(0, 255).astype(np.uint8)), b""
    for quality in (70, 80, 85, 88, 90, 92, 94, 96):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        if best and len(buffer.getvalue()) > size:
            break
        best = buffer.getvalue()
    return best


def named(image: bytes, number: int) -> bytes:
    """The same picture as a file of its own: with a comment that holds a number."""
    comment = b"%012d" % number
    return image[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + image[2:]


def make_pool(folder: Path, count: int, first: int = 0, images: list[bytes] | None = None) -> Path:
    """A JSONL of `count` samples with images beside it; returns the file."""
    images = images or [jpeg(number) for number in range(DISTINCT)]
    (folder / "img").mkdir(parents=True, exist_ok=True)
    file = folder / f"pool-{first}.jsonl"
    with file.open("w") as lines:
        for number in range(first, first + count):
            name = f"img/{number:07}.jpg"
            (folder / name).write_bytes(named(images[number % len(images)], number))
            messages = [
                {"role": "user", "content": f"What is in picture {number}, and how many of it are there in all?"},
                {"role": "assistant", "content": f"There are {number % 17} of them, and {number % 5} of another kind."},
            ]
            lines.write(json.dumps({"images": [name], "messages": messages, "id": number}) + "\n")
    return file


def ingest(code: str, pool: Path, folder: Path, into: Path, library: Path) -> Ran:
    """One ingestion as a process of its own, by the code of a folder."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    arguments = [str(pool), str(folder / "anchors/pool-0.jsonl"), str(folder / "benchmark/pool-900.jsonl")]
    script = folder / "ingest.py"
    script.write_text(code)
    command = [sys.executable, str(script), *arguments, str(folder / "model"), str(into), str(WORKERS)]
    return run(command, env=os.environ | {"PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"})


def decode(pool: Path, count: int, folder: Path) -> Ran:
    """Bare decoding of the pool's images in as many processes."""
    script = folder / "decode.py"
    script.write_text(DECODE)
    return run([sys.executable, str(script), str(pool.parent / "img"), str(count), str(WORKERS)])


def bench_rates(folder: Path, before: Path, rounds: int) -> dict:
    """Samples a second of three ways, in turns; what each takes to start is measured on a few samples, and left out."""
    count = SIZES[1]
    pool = make_pool(folder / f"rate-{count}", count)
    seconds: dict[str, list[float]] = {"ost": [], BEFORE: [], "decode": []}
    empty = make_pool(folder / "few", 8, first=10_000)
    starts = {
        "ost": ingest(INGEST, empty, folder, folder / "out", ROOT).seconds,
        BEFORE: ingest(INGEST_BEFORE, empty, folder, folder / "out", before).seconds,
        "decode": decode(empty, 8, folder).seconds,
    }
    for _ in range(rounds):
        seconds["ost"].append(ingest(INGEST, pool, folder, folder / "out", ROOT).seconds)
        seconds[BEFORE].append(ingest(INGEST_BEFORE, pool, folder, folder / "out", before).seconds)
        seconds["decode"].append(decode(pool, count, folder).seconds)
    rates = {way: [count / (one - starts[way]) for one in own] for way, own in seconds.items()}
    median = {way: statistics.median(own) for way, own in rates.items()}
    ratios = {f"ratio_to_{way}": median["ost"] / median[way] for way in (BEFORE, "decode")}
    console.print(ratios)
    rated = {"samples": count, "seconds_to_start": starts, "samples_per_second": rates, "median": median}
    return ratios | {"rates": rated}


def bench_memory(folder: Path) -> dict:
    """Peak memory and rate at each size of the pool."""
    found: dict[str, dict] = {}
    for count in SIZES:
        pool = make_pool(folder / f"pool-{count}", count)
        ran = ingest(INGEST, pool, folder, folder / "out", ROOT)
        rate = count / ran.seconds
        found[str(count)] = {"peak_mb": ran.peak_mb, "seconds": ran.seconds, "samples_per_second": rate}
        console.print(f"{count:,} samples: {ran.peak_mb:,.0f} MB, {rate:,.0f} samples/s", highlight=False)
        shutil.rmtree(pool.parent)
    first, last = (found[str(size)]["peak_mb"] for size in (SIZES[0], SIZES[-1]))
    return {"pool": found, "peak_mb": last, "peak_ratio": last / first}


def bench_new_data(folder: Path) -> dict:
    """Bytes that 1 % of new data adds to a sample set and to DVC's cache, as a share of the first time's."""
    source, count = folder / "growing", SIZES[1]
    make_pool(source, count)
    workspace = folder / "workspace"
    workspace.mkdir()
    dvc = str(Path(sys.executable).parent / "dvc")
    subprocess.run([dvc, "init", "--quiet", "--no-scm"], cwd=workspace, check=True)
    script = folder / "ingest.py"
    script.write_text(INGEST.replace("workers=int(workers)", "workers=int(workers), memory=f'{into}/../memory'"))

    def step() -> tuple[dict[str, int], int, float]:
        arguments = [source, folder / "anchors/pool-0.jsonl", folder / "benchmark/pool-900.jsonl", folder / "model"]
        command = [sys.executable, script, *arguments, workspace / "data", WORKERS]
        ran = run(list(map(str, command)), env=os.environ | {"PYTHONPATH": str(ROOT)})
        subprocess.run([dvc, "add", "--quiet", "data"], cwd=workspace, check=True)
        shards = {file.name: file.stat().st_size for file in (workspace / "data/pool").iterdir()}
        cached = sum(file.stat().st_size for file in (workspace / ".dvc/cache").rglob("*") if file.is_file())
        return shards, cached, ran.seconds

    shards, cached, first = step()
    make_pool(source, count // 100, first=count)
    grown, cached_then, second = step()
    written = sum(size for name, size in grown.items() if name not in shards or name == "dataset.json")
    data, cache = written / sum(shards.values()), (cached_then - cached) / cached
    console.print(f"1 % new data: {data:.1%} of data/, {cache:.1%} of DVC's cache", highlight=False)
    return {"new_data": {"samples": count, "data_share": data, "cache_share": cache, "seconds": [first, second]}}


def bench_whole(folder: Path) -> dict:
    """Peak memory of `ost score`, `select` and `export` on a pool of 3 GiB, by a tiny proxy."""
    images = [jpeg(number, 4 * BYTES) for number in range(16)]
    count = WHOLE // len(images[0]) + 1
    pool = make_pool(folder / "whole", count, images=images)
    scores, subset, out = (folder / name for name in ("utility.parquet", "subset.parquet", "subset"))
    ost, data = str(Path(sys.executable).parent / "ost"), str(folder / "utility.work/data/pool")
    anchors = str(folder / "anchors/pool-0.jsonl")
    found: dict = {"samples": count, "bytes": sum(file.stat().st_size for file in (folder / "whole/img").iterdir())}
    for name, command in {
        "score": [
            "score",
            str(pool),
            "--anchors",
            anchors,
            "--proxy",
            str(folder / "model"),
            "--out",
            str(scores),
            *SHORT,
        ],
        "select": ["select", str(scores), "--fraction", "0.2", "--clean-below", "0", "--out", str(subset)],
        "export": ["export", str(subset), "--form", "trl", "--data", data, "--out", str(out)],
    }.items():
        ran = run([ost, *command])
        found[name] = {"peak_mb": ran.peak_mb, "seconds": ran.seconds}
        console.print(f"{name}: {ran.peak_mb:,.0f} MB, {ran.seconds:,.0f} s", highlight=False)
    shutil.rmtree(folder / "whole")
    return {"whole": found | {"peak_mb": max(found[name]["peak_mb"] for name in ("score", "select", "export"))}}


def prepare(folder: Path) -> None:
    """Anchors, a benchmark and a model that all measurements share."""
    make_pool(folder / "anchors", 20)
    make_pool(folder / "benchmark", 8, first=900)
    for name in ("anchors", "benchmark"):  # ask what the pool doesn't
        for file in (folder / name).glob("*.jsonl"):
            file.write_text(file.read_text().replace("What is in", f"Of the {name}: what is in"))
    processor = handmath.processor()
    limit_image_tokens(processor, 64)
    Checkpoint(build_model(PROXY, processor, 0), processor).save(folder / "model")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", help="where the pools are made, with 30 GB to spare; else a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, before = Path(name), Path(name) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(before), BEFORE], cwd=ROOT, check=True)
        try:
            prepare(folder)
            result: dict = {"workers": WORKERS}
            for measure in (bench_whole, bench_new_data, partial(bench_rates, before=before, rounds=options.rounds)):
                result |= measure(folder)
                write_json(RESULT, result)
            result |= bench_memory(folder)
            write_json(RESULT, result)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    console.print(result)


if __name__ == "__main__":
    main()
