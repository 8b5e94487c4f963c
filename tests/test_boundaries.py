"""The house's walls: what may import what, what the public surface is, and that the linters agree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ost

ROOT = Path(__file__).parents[1]
OUTSIDE = ("prefect", "mlflow", "dvc", "boto3")
"""What the library must not need."""
BIN = Path(sys.executable).parent


def loaded_by(code: str, less: str = "set()") -> set[str]:
    """Which packages of OUTSIDE a fresh process has loaded after running `code`, less those in a set that it names."""
    program = f"import sys\n{code}\nprint('loaded', *(set(sys.modules) - {less}) & set({OUTSIDE}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.splitlines()[-1].split()[1:])


def imports(path: Path) -> set[str]:
    """Top-level packages that a source file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def importers(package: str, room: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / room).rglob("*.py") if package in imports(path)}


ROOMS = """
import importlib, pkgutil, ost
for room in pkgutil.walk_packages(ost.__path__, "ost."):
    importlib.import_module(room.name)
assert sum(name.startswith("ost.") for name in sys.modules) > 20
"""


def test_the_library_loads_none_of_the_four():
    assert loaded_by("import ost") == set(), "ost can no longer be used from a notebook alone"


def test_no_room_of_the_library_loads_one_of_the_four():
    """The dependency of transformers' Trainer imports boto3 where it finds it, so what that brings is taken out."""
    assert loaded_by(f"from transformers import Trainer\nthird = set(sys.modules){ROOMS}", less="third") == set()


def test_every_room_of_the_library_works_where_none_of_the_four_is_installed():
    loaded_by(f"sys.modules.update(dict.fromkeys({OUTSIDE})){ROOMS}")


def test_that_check_sees_a_package_when_it_is_loaded():
    assert loaded_by("import ost, mlflow") >= {"mlflow"}


@pytest.mark.parametrize("package", OUTSIDE)
def test_no_source_of_the_library_names_one_of_the_four(package):
    assert importers(package, "ost") == set()


STORAGE = ("errors", "mirror", "transfer")


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        *((package, {f"tasks/storage/{name}.py" for name in STORAGE}) for package in ("boto3", "botocore")),
        (
            "mlflow",
            {"tasks/tracking.py", *(f"tasks/record/{name}.py" for name in ("lineage", "champion", "outbox"))},
        ),
        ("dvc", {"tasks/versioning.py"}),
        ("ray", {"tasks/stages/ray_shards.py"}),
        ("prefect_ray", {"tasks/stages/ray_shards.py"}),
    ],
)
def test_each_service_has_its_own_room(package, allowed):
    found = importers(package, "tasks") | importers(package, "flows")
    assert found <= allowed, f"{package} leaks into {sorted(found - allowed)}"


def test_an_address_is_told_from_a_path_without_boto3():
    code = "from tasks.storage import is_remote; assert is_remote('s3://bucket')"
    assert loaded_by(code) == set(), "every start of `ost` would wait for it"


def test_the_walk_sees_imports(tmp_path):
    source = tmp_path / "late.py"
    source.write_text("def f():\n    import boto3.x as s\n    from mlflow.entities import Run\n    from . import dvc\n")
    assert imports(source) == {"boto3", "mlflow"}


def test_the_library_imports_no_upper_floor():
    assert importers("tasks", "ost") | importers("flows", "ost") | importers("flows", "tasks") == set()


@pytest.mark.parametrize(
    "command", [["lint-imports", "--no-cache"], ["ruff", "check", "--no-cache", "."]], ids=lambda command: command[0]
)
def test_the_linters_agree(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_public_surface_is_as_agreed():
    """Whoever changes it changes what users import: say so in the changelog."""
    assert sorted(ost.__all__) == [
        "Checkpoint",
        "Dataset",
        "OSTError",
        "Sample",
        "Scored",
        "chat",
        "ingest",
        "kept_ids",
        "load_checkpoint",
        "read_scores",
        "score",
        "select",
        "toxic_list",
        "write_samples",
    ]
    assert all(getattr(ost, name).__doc__ for name in ost.__all__), "a public name without a word about it"
