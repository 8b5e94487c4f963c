"""Tiny workspaces, and the commands that a user would run in them."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from flows.display import console
from flows.parameters import set_params
from ost.store import read_json
from tasks.pipeline import manifest_path, write_pipeline

ROOT = Path(__file__).parents[1]
TINY = [
    "world.pool=200",
    "world.anchors=20",
    "world.benchmark=60",
    "world.errors=rules",
    "base.target_steps=4",
    "base.proxy_steps=4",
    "base.batch_size=8",
    "score.checks=8",
    "score.lookahead.most_steps=3",
    "select.clean_below=0",  # a barely trained proxy finds no harm, and subsets that are drawn alike would be one
    "sft.steps=10",
    "sft.batch_size=8",
    "evaluate.max_new_tokens=4",
    "compute.workers=1",
]

ONE_TRAINING = ["curate.subsets=[lookahead-20]", "curate.protocols=[B]"]
"""For what is not about the arms: half as many stages, each of which DVC would parse them all again for."""

RECURATED = [
    *TINY,
    *ONE_TRAINING,
    "data.truth=null",
    "warmup.fraction=0.4",
    "score.checks=0",
    "recurate.drift=1.0",
    "recurate.resamples=100",
]
"""For data that keeps arriving, of which a test says itself when the proxy no longer holds."""

SUBSETS = ("full", "random-20", "lookahead-20", "lookahead-50")
"""What a workspace chooses that is told nothing else."""
TRAININGS = ("full-B", *(f"{subset}-{protocol}" for subset in SUBSETS[1:] for protocol in "BA"))
"""What it trains."""


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

    def ost(self, *arguments: str, ok: bool = True) -> str:
        """What `run("ost", …)` gives, from this process: it has loaded what a new one spends five seconds on.

        What worker processes write to the standard error themselves is not in it; flows report to the Prefect server of
        the fixture `on_one_server`.
        """
        printed, code = io.StringIO(), None
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.root)
            patch.setattr(sys, "argv", ["ost", *arguments])
            patch.setattr(console, "width", 200)
            try:
                main()
            except SystemExit as end:
                code = end.code
        assert (code == 0) == ok, f"ost {arguments} ended with {code}:\n{printed.getvalue()}"
        return printed.getvalue()

    def start(self, *command: str) -> subprocess.Popen:
        """A command in the background, in a process group of its own; what it says goes to start.log beside it."""
        options = {"stderr": subprocess.STDOUT, "start_new_session": True}
        with (self.root / "start.log").open("w") as log:
            return subprocess.Popen(command, cwd=self.root, env=self._env(), stdout=log, **options)

    def commit(self, message: str) -> None:
        """Commit all that git does not ignore."""
        self.run("git", "add", "--all")
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self.run("git", *author, "commit", "--quiet", "--message", message)

    def manifests(self) -> dict[str, dict]:
        """Every stage's manifest, by the stage's name."""
        found = [read_json(path) for path in sorted(self.root.rglob("*manifest.json")) if ".dvc" not in path.parts]
        return {manifest["stage"]: manifest for manifest in found if "stage" in manifest}

    def declared(self) -> dict[str, tuple[set[str], set[str]]]:
        """What dvc.yaml says that each stage reads, and that it leaves."""

        def paths(entries: list[str | dict]) -> set[str]:
            return {path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)}

        stages = yaml.safe_load((self.root / "dvc.yaml").read_text())["stages"]
        return {
            name: (paths(stage.get("deps", [])), paths([*stage.get("outs", []), *stage.get("metrics", [])]))
            for name, stage in stages.items()
        }

    def _env(self) -> dict[str, str]:
        return os.environ | {"COLUMNS": "200"} | self.environment


def shown_by(page: Path) -> str:
    """An HTML page without its tags."""
    return re.sub(r"<[^>]+>", "", page.read_text())


def assert_stages_keep_to_dvc_yaml(shell: Shell, stages: Collection[str]) -> None:
    """Each stage, by its manifest, has read some of what dvc.yaml lists for it, and left all that it lists."""
    manifests, declared = shell.manifests(), shell.declared()
    for stage in stages:
        reads, leaves = declared[stage]
        assert set(manifests[stage]["inputs"]) <= reads, f"{stage} is reused though what it read changes"
        assert {*manifests[stage]["outputs"], manifest_path(stage)} == leaves, f"{stage} leaves something else"


def shell_in(root: Path, prefect_home: Path) -> Shell:
    """Commands in an empty folder, which is made."""
    root.mkdir(parents=True)
    return shell_at(root, prefect_home)


def shell_at(root: Path, prefect_home: Path) -> Shell:
    """Commands in a folder that is there."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PREFECT_HOME": str(prefect_home), "HF_HUB_OFFLINE": "1", "MLFLOW_TRACKING_URI": ""}
    return Shell(root, environment)


def make_workspace(root: Path, prefect_home: Path, assignments: list[str]) -> Shell:
    """A workspace in a git repository of its own."""
    shell = shell_in(root, prefect_home)
    for name in ("params.yaml", ".gitignore"):
        shutil.copyfile(ROOT / name, root / name)
    set_params(root / "params.yaml", assignments)
    write_pipeline(root)
    shell.run("git", "init", "--quiet")
    shell.run("dvc", "init", "--quiet")
    shell.commit("a workspace")
    return shell
