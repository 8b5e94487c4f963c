"""One local Ray worker against two, of one thread each: `make bench-ray` → metrics/bench_ray.json.

Both runs score the same pool from nothing, Prefect's server and Ray started and stopped within the time. The tables
have to be the same to the byte.
"""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.scoring import prepare
from flows.display import console
from ost.scoring import Job, score_file
from ost.settings import Score
from ost.store import write_json, write_table
from tasks.settings import Compute
from tasks.stages.ray_shards import runner

SAMPLES = 32768


def bench(folder: Path, samples: int) -> dict:
    """Seconds of both, whole and from the first published shard on."""
    prepare(folder, [samples])
    runs = [_run(folder, samples, workers) for workers in (1, 2)]
    tables = [run.pop("table") for run in runs]
    return {
        "samples": samples,
        "runs": runs,
        "ratio": runs[1]["seconds"] / runs[0]["seconds"],
        "ratio_while_scoring": runs[1]["scoring_seconds"] / runs[0]["scoring_seconds"],
        "identical": tables[0] == tables[1],
    }


def _run(folder: Path, samples: int, workers: int) -> dict:
    settings = Score(method="gradient", checks=0)
    store, out = folder / f"store-{workers}", folder / f"table-{workers}.parquet"
    job = Job(folder / f"pool-{samples}.parquet", folder / "anchors.parquet", folder / "proxy", store, settings)
    marks: list[float] = []
    start = time.perf_counter()
    scored = score_file(
        job, runner(Compute(ray="local", ray_workers=workers)), lambda *_: marks.append(time.perf_counter())
    )
    write_table(out, scored.table)
    seconds = time.perf_counter() - start
    return {"workers": workers, "seconds": seconds, "scoring_seconds": marks[-1] - marks[0], "table": out.read_bytes()}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_ray.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = bench(Path(folder), arguments.samples)
    write_json(arguments.out, result)
    console.print_json(data=result)


if __name__ == "__main__":
    main()
