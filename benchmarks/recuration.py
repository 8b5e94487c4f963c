"""What a week costs, and what a killed worker costs: `make bench-recuration` → metrics/bench_recuration.json.

First, `ost recurate` on a pool of 50,000, then with 1 % more of it in each of four weeks, then with none. Then, on
PostgreSQL, S3, Prefect and MLflow: new data arrives twenty times, and each time the worker and all that it started are
killed at a random moment of the run (SIGKILL). The next run must end in the selection of an undisturbed workspace, to
the byte.
"""

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import boto3
import pyarrow.parquet as pq
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from flows.display import console
from flows.parameters import set_params
from ost.data import write_samples
from ost.store import digest, read_json, write_json
from ost.worlds import handmath
from stack.processes import BIN, run
from stack.stack import Ports, deploy, prepare, stack, worker
from tasks.pipeline import manifest_path, write_pipeline
from tasks.stages.run import execute

HERE = Path(__file__).parents[1]
POOL, WEEKS = 50_000, 4
NEW = POOL // 100
"""Samples that are new in a week."""
SHORT = ["base.target_steps=50", "base.proxy_steps=50", "sft.steps=20", "data.truth=null", "recurate.drift=1.0"]
"""Trainings that are not what is measured are kept short."""
SMALL = ["score.checks=0", "recurate.resamples=100", "compute.workers=1", "warmup.fraction=0.4"]
SELECTION = "selections/lookahead-20.parquet"
LONGEST = 25.0
"""Seconds after the start of a run within which its worker is killed."""


def bench_cost(folder: Path) -> dict:
    """Seconds, bytes written and rows scored of a first run, of weeks with 1 % more data, and of one with none."""
    sources = {"data.pool": "incoming", "data.anchors": "anchors.parquet", "data.benchmark": "benchmark.parquet"}
    make_workspace(folder, [*SHORT, *(f"{name}={path}" for name, path in sources.items())])
    for split, count in (("anchors", 100), ("benchmark", 200)):
        _write(folder / f"{split}.parquet", split, count)
    runs = {}
    counts = {"first": POOL} | {f"week {number + 1}": NEW for number in range(WEEKS)} | {"nothing": 0}
    for step, (name, count) in enumerate(counts.items()):
        if count:
            _write(folder / f"incoming/{step}.parquet", "pool", count, step)
        rows, started, moment = _rows_scored(folder), time.perf_counter(), time.time()
        run([BIN / "ost", "recurate"], cwd=folder, env=os.environ | {"MLFLOW_TRACKING_URI": ""})
        runs[name] = {
            "samples": count,
            "command_seconds": time.perf_counter() - started,
            "ingest_seconds": _seconds(folder, "ingest") if count else 0.0,
            "score_seconds": _spent(folder) if count else 0.0,
            "rows_scored": _rows_scored(folder) - rows,
            "bytes_written": _written_since(folder, moment),
        }
        console.print(name, runs[name])
    shares = [_data_seconds(runs[f"week {number + 1}"]) / _data_seconds(runs["first"]) for number in range(WEEKS)]
    return {"runs": runs, "ingest_and_score_ratio": shares}


def bench_kills(folder: Path, kills: int, seed: int) -> dict:
    """Kill the worker at random moments; returns when, and how often the selection was that of an undisturbed run."""
    moments, killed, equal, finished = random.Random(seed), [], 0, 0
    root, twin = folder / "workspace", folder / "undisturbed"
    with stack(folder / "servers", Ports.free()) as servers:
        os.environ.update(servers.environment)
        prepare(servers.environment)
        addresses = [f"data.{name}=s3://ost/{name}.parquet" for name in ("anchors", "benchmark")]
        make_workspace(root, [*SHORT, *SMALL, *addresses, "data.pool=s3://ost/incoming/", "sft.steps=100"])
        shutil.copyfile(HERE / "prefect.yaml", root / "prefect.yaml")
        deploy(root, servers.environment)
        for split, count in (("anchors", 20), ("benchmark", 60)):
            _upload(folder, f"{split}.parquet", split, count)
        _upload(folder, "incoming/first.parquet", "pool", 400)
        with (
            worker(folder, servers.environment) as own,
            temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}),
        ):
            _run_through()
            shutil.copytree(root, twin, symlinks=True)
            for number in range(kills):
                _upload(folder, f"incoming/{number:02}.parquet", "pool", 20, number + 1)
                flow_run = _start()
                moment = moments.uniform(0.0, LONGEST)
                time.sleep(moment)
                finished += _state(flow_run).is_final()
                own.kill_tree()
                _bury(flow_run)
                own.start()
                _run_through()
                for stage in ("ingest", "score-lookahead", "select-lookahead-20"):
                    execute(stage, twin)
                killed.append(moment)
                equal += digest(root / SELECTION) == digest(twin / SELECTION)
                console.print(f"kill {number + 1} after {moment:.1f} s: {equal} selections as undisturbed")
            idle = _run_through()
    return {
        "kills": kills,
        "seed": seed,
        "seconds": killed,
        "finished_before": finished,
        "identical": equal,
        "nothing_new_seconds": idle,
    }


def make_workspace(root: Path, assignments: list[str]) -> None:
    """A workspace in a git repository of its own."""
    root.mkdir(parents=True)
    shutil.copyfile(HERE / "params.yaml", root / "params.yaml")
    set_params(root / "params.yaml", assignments)
    write_pipeline(root)
    for command in (["git", "init", "--quiet"], [BIN / "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=root, check=True)


def _write(path: Path, split: str, count: int, stream: int = 0) -> Path:
    return write_samples(path, map(handmath.to_sample, handmath.draw(split, count, 0, stream=stream)))


def _upload(folder: Path, key: str, split: str, count: int, stream: int = 0) -> None:
    boto3.client("s3").upload_file(str(_write(folder / "upload.parquet", split, count, stream)), "ost", key)


def _seconds(root: Path, stage: str) -> float:
    return read_json(root / manifest_path(stage))["seconds"]


def _spent(root: Path) -> float:
    """Seconds that the last run itself scored for."""
    return read_json(root / manifest_path("score-lookahead"))["metrics"]["spent_seconds"]


def _data_seconds(run: dict) -> float:
    return run["ingest_seconds"] + run["score_seconds"]


def _rows_scored(root: Path) -> int:
    """Rows in the store of scores, each scored once."""
    shards = (root / ".ost/scores").rglob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in shards if file.parent.name != "reference")


def _written_since(root: Path, moment: float) -> int:
    """Bytes of the files that were written since; one that was written twice counts once."""
    files = (path.lstat() for path in root.rglob("*") if path.is_file())
    return sum(found.st_size for found in files if found.st_mtime >= moment)


def _start() -> str:
    """Start a run of the weekly deployment; returns its id."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("recurate/weekly")
        return client.create_flow_run_from_deployment(deployment.id).id


def _state(flow_run: str):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run).state


def _run_through() -> float:
    """Run the deployment to its end; returns the seconds from asking for it."""
    flow_run, started = _start(), time.perf_counter()
    while not (state := _state(flow_run)).is_final():
        time.sleep(1)
    if state.type is not StateType.COMPLETED:
        raise RuntimeError(f"an undisturbed run ended as {state.type}: {state.message}")
    return time.perf_counter() - started


def _bury(flow_run: str) -> None:
    """Say at once that a run is dead, as the automation would after its silence."""
    with get_client(sync_client=True) as client:
        if not client.read_flow_run(flow_run).state.is_final():
            client.set_flow_run_state(flow_run, Crashed(message="killed"), force=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench_recuration.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recuration-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL has a user of its own where this runs as root
        result = {"cost": bench_cost(folder / "cost")}
        write_json(arguments.out, result)
        if arguments.kills:
            result["kills"] = bench_kills(folder, arguments.kills, arguments.seed)
            write_json(arguments.out, result)
    console.print_json(data=result)


if __name__ == "__main__":
    main()
