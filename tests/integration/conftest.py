"""The real servers, a workspace whose data lies in S3, and a worker that runs its deployments."""

import json
import re
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_workspace import RECURATED, Shell, make_workspace

from ost.data import write_samples
from ost.worlds import handmath
from stack.servers import S3
from stack.stack import Ports, deploy, prepare, stack, worker

SETTINGS = [
    "data.pool=s3://ost/incoming/",
    "data.anchors=s3://ost/anchors.parquet",
    "data.benchmark=s3://ost/benchmark.parquet",
    "recurate.publish=s3://ost/selections",
]


@dataclass
class Production:
    """Servers, and a workspace that a deployment runs in."""

    folder: Path
    environment: dict[str, str]
    shell: Shell

    def upload(self, key: str, problems: list[handmath.Problem]) -> None:
        """Put right answers to problems into the bucket, as a Parquet file."""
        file = self.folder / "upload.parquet"
        write_samples(file, map(handmath.to_sample, problems))
        self.s3().upload_file(str(file), "ost", key)

    def s3(self):
        """A client of the S3 server."""
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return S3(*(self.environment[name] for name in names)).client()

    def start(self) -> str:
        """Ask for a run of the weekly deployment; returns its id."""
        printed = self.shell.run("prefect", "--no-prompt", "deployment", "run", "recurate/weekly")
        return re.search(r"UUID: ([0-9a-f-]{36})", printed)[1]

    def state(self, run: str) -> str:
        """Name of the state that a run is in."""
        with urllib.request.urlopen(f"{self.environment['PREFECT_API_URL']}/flow_runs/{run}", timeout=30) as answer:
            return json.load(answer)["state"]["type"]

    def finish(self, run: str, seconds: float = 300) -> str:
        """Wait for the end of a run; returns the name of its last state."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run)) not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert time.monotonic() < deadline, f"the run is {state} after {seconds} s"
            time.sleep(1)
        return state

    def worker(self):
        """A worker, for the time of a block."""
        return worker(self.folder, self.environment)


@pytest.fixture(scope="session")
def production() -> Iterator[Production]:
    """All servers up, the deployments made; nothing has run yet."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)  # PostgreSQL has a user of its own where the tests run as root
    try:
        with stack(folder / "servers", Ports.free()) as environment:
            prepare(environment)
            shell = make_workspace(folder / "workspace", folder / "servers/prefect", [*RECURATED, *SETTINGS])
            shell.environment |= environment
            shutil.copyfile(Path(__file__).parents[2] / "prefect.yaml", shell.root / "prefect.yaml")
            deploy(shell.root, environment)
            found = Production(folder / "servers", environment, shell)
            for split, count in (("anchors", 20), ("benchmark", 60)):
                found.upload(f"{split}.parquet", handmath.draw(split, count, 0))
            found.upload("incoming/2026-11-01.parquet", handmath.draw("pool", 200, 0))
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
