"""The demo over several seeds: `python -m flows.replicate --seeds 0 1 2`.

This workspace serves for its own seed; each other seed gets a workspace of its own under runs/.

A seed changes all that is drawn: the split of the digits, both base models, the faulty teacher, the warm-up, the random
arm and every training. Writes docs/seeds.json, the rows of each seed's arms.json with mean and standard deviation, and
docs/arms.png, their chart.
"""

import argparse
import os
import shutil
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

from flows.display import console
from flows.parameters import set_params
from ost.config import load_params
from ost.report import chart_png
from ost.selection import arm_label
from ost.store import read_json, write_json
from tasks import versioning
from tasks.tracking import tracking_uri


def replicate(root: Path, seeds: list[int], assignments: list[str], out: str) -> dict:
    """Curate once for each seed and return what is written to `out`; finished seeds are reused."""
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": tracking_uri(root, load_params(root / "params.yaml").tracking.uri)
    }
    rows, audits = [], {}
    for seed in seeds:
        workspace = _workspace(root, seed, assignments)
        console.rule(f"seed {seed}")
        subprocess.run(["ost", "curate", "--workspace", str(workspace)], check=True, env=environment)
        rows += read_json(workspace / "metrics/arms.json")
        audits[str(seed)] = read_json(workspace / "metrics/audit.json")
    result = {"seeds": seeds, "settings": assignments, "summary": _summary(rows), "arms": rows, "audit": audits}
    write_json(root / out, result)
    chart_png(rows, root / "docs/arms.png")
    return result


def _workspace(root: Path, seed: int, assignments: list[str]) -> Path:
    if not assignments and load_params(root / "params.yaml").seed == seed:
        return root
    name = "-".join(["seed", str(seed), *(assignment.replace("=", "-") for assignment in assignments)])
    workspace = root / "runs" / name
    if not (workspace / ".dvc").exists():
        workspace.mkdir(parents=True, exist_ok=True)
        versioning.init(workspace)
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(root / file, workspace / file)
    set_params(workspace / "params.yaml", [f"seed={seed}", *assignments])
    return workspace


def _summary(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over seeds, an entry for each arm and protocol."""
    groups = defaultdict(list)
    for row in rows:
        groups[arm_label(row["arm"], row["fraction"]), row["protocol"]].append(row["accuracy"])
    return [
        {
            "arm": arm,
            "protocol": protocol,
            "accuracy_mean": statistics.fmean(values),
            "accuracy_sd": statistics.stdev(values) if len(values) > 1 else 0.0,
            "accuracies": values,
        }
        for (arm, protocol), values in groups.items()
    ]


def main() -> None:
    """Parse the command line and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", default="docs/seeds.json")
    arguments = parser.parse_args()
    result = replicate(Path.cwd(), arguments.seeds, arguments.assignments, arguments.out)
    for entry in result["summary"]:
        each = "  ".join(f"{value:.1%}" for value in entry["accuracies"])
        mean, spread = entry["accuracy_mean"], entry["accuracy_sd"]
        console.print(f"{entry['arm']:<14} {entry['protocol']}  {mean:.1%} ± {spread:.1%}   {each}", highlight=False)


if __name__ == "__main__":
    main()
