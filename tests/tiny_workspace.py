"""Tiny workspaces, and the commands that a user would run in them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from flows.parameters import set_params
from ost.store import read_json

ROOT = Path(__file__).parents[1]
TINY = [
    "world.pool=200",
    "world.anchors=20",
    "world.benchmark=60",
    "world.errors=rules",
    "base.target_steps=4",
    "base.proxy_steps=4",
    "base.batch_size=8",
    "score.checks=20",
    "score.lookahead.most_steps=3",
    "select.clean_below=0",  # a barely trained proxy finds no harm, and arms that draw alike would be one
    "sft.steps=10",
    "sft.batch_size=8",
    "evaluate.max_new_tokens=4",
    "compute.workers=1",
]

RECURATED = [
    *TINY,
    "data.truth=null",
    "warmup.fraction=0.4",
    "score.checks=0",
    "recurate.drift=1.0",
    "recurate.resamples=100",
]
"""For data that keeps arriving, of which a test says itself when the proxy no longer holds."""


@dataclass
class Shell:
    """A workspace folder, and commands run in it as a user would."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, ok: bool = True) -> str:
        """Standard output and error of a command; its exit code must be 0, or not be 0."""
        done = subprocess.run(command, cwd=self.root, env=self._env(), capture_output=True, text=True, timeout=600)
        text = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, f"{command} ended with {done.returncode}:\n{text}"
        return text

    def start(self, *command: str) -> subprocess.Popen:
        """A command in the background."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self.root, env=self._env(), stdout=quiet, stderr=quiet)

    def manifests(self) -> dict[str, dict]:
        """Every stage's manifest, by the stage's name."""
        found = [read_json(path) for path in sorted(self.root.rglob("*manifest.json")) if ".dvc" not in path.parts]
        return {manifest["stage"]: manifest for manifest in found if "stage" in manifest}

    def _env(self) -> dict[str, str]:
        return os.environ | {"COLUMNS": "200"} | self.environment


def make_workspace(root: Path, prefect_home: Path, assignments: list[str]) -> Shell:
    """A workspace in a git repository of its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PREFECT_HOME": str(prefect_home), "HF_HUB_OFFLINE": "1", "MLFLOW_TRACKING_URI": ""}
    shell = Shell(root, environment)
    root.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        shutil.copyfile(ROOT / name, root / name)
    set_params(root / "params.yaml", assignments)
    shell.run("git", "init", "--quiet")
    shell.run("dvc", "init", "--quiet")
    shell.run("git", "add", "--all")
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    shell.run("git", *author, "commit", "--quiet", "--message", "a workspace")
    return shell
