"""Mirroring a prefix against a plain parallel download of the same objects: `make bench-storage`.

A real S3 server on loopback; the two take turns, and each round starts from an empty folder. Writes
metrics/bench_storage.json.
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3

from flows.display import console
from ost.store import write_json
from stack.servers import s3_server
from tasks.storage import fetch
from tasks.storage.transfer import CONNECTIONS

SHARDS = {"small": (400, 250_000), "shards": (48, 8 << 20), "large": (2, 200 << 20)}
"""Objects, and bytes of each."""
BUCKET = "pools"


def plain(client, prefix: str, into: Path) -> None:
    """What one would write oneself: as many connections, nothing checked, nothing resumed."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    keys = [one["Key"] for page in pages for one in page["Contents"]]
    into.mkdir(parents=True)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda key: client.download_file(BUCKET, key, str(into / Path(key).name)), keys))


def bench(client, folder: Path, rounds: int) -> dict:
    """Seconds of both for each kind of pool, and the ratio of their speeds, by rounds."""
    result = {}
    for prefix, (count, size) in SHARDS.items():
        for number in range(count):
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{number:05}.parquet", Body=random.randbytes(size))
        ways = {
            "plain": lambda into, prefix=prefix: plain(client, prefix, into),
            "ost": lambda into, prefix=prefix: fetch(f"s3://{BUCKET}/{prefix}", into),
        }
        seconds = {way: [] for way in ways}
        for turn in range(rounds):
            for way in sorted(ways, reverse=turn % 2 == 0):
                seconds[way].append(_timed(ways[way], folder / way))
        ratios = [one / other for one, other in zip(seconds["plain"], seconds["ost"], strict=True)]
        result[prefix] = {
            "objects": count,
            "bytes": size,
            "seconds": seconds,
            "speed_ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }
    return result


def _timed(way: Callable[[Path], object], into: Path) -> float:
    started = time.perf_counter()
    way(into)
    seconds = time.perf_counter() - started
    shutil.rmtree(into)
    into.with_name(f"{into.name}.etags.json").unlink(missing_ok=True)
    return seconds


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_storage.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as server:
        os.environ.update(server.environment)
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        result = bench(client, Path(name) / "fetched", arguments.rounds)
    write_json(arguments.out, result)
    console.print_json(data=result)


if __name__ == "__main__":
    main()
