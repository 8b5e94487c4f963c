"""What the pages promise: links, commands, parameters and files that they name are there; the picture is the code's."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from docs.draw_architecture import FILE, draw
from flows.cli.main import app
from flows.study import STUDIES
from ost.arms import arms

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TODAY = [page for page in PAGES if page.stem != "LOG"]
"""Pages that speak of the project as it is; the log keeps the names of its day."""
COMMANDS = typer.main.get_command(app).commands


def headings(page: Path) -> set[str]:
    """The names that a link into a Markdown page may have after its `#`."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_project(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    for link in links:
        path, _, heading = link.partition("#")
        place = page.parent / path if path else page
        assert place.is_file(), f"{page.name} links to {link}"
        assert not heading or heading in headings(place), f"{page.name} links to {link}"


def commands(page: Path) -> list[str]:
    """Those in code blocks, a line each unless it ends in a backslash, and those in backticks, over lines or not."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    blocks = [line.partition("#")[0] for block in fenced.findall(text) for line in block.splitlines()]
    return [line for line in [*blocks, *re.findall(r"`([^`]+)`", fenced.sub("", text))] if line.startswith("ost ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_those_of_the_command_line(page):
    for line in commands(page):
        _, command, *words = line.split()
        assert command in COMMANDS, line
        own = COMMANDS[command]
        if hasattr(own, "commands") and words:
            assert words[0] in own.commands, line
            own = own.commands[words[0]]
        options = {option for one in own.params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        if command == "study" and words and words[0] != "NAME":
            assert words[0] in {*STUDIES, "list"}, line
        if "--arms" in words and page in TODAY:
            assert set(words[words.index("--arms") + 1].split(",")) <= {*arms(), "all"}, line


def test_there_are_commands_to_look_at():
    assert {line.split()[1] for page in PAGES for line in commands(page)} >= {"curate", "compare", "study", "recurate"}


@pytest.mark.parametrize("page", TODAY, ids=lambda page: page.name)
def test_parameters_that_are_named_stand_in_params_yaml(page):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    sections = "|".join(params)
    for name in re.findall(rf"[`\s]((?:{sections})\.[a-z_.]+)", page.read_text()):
        if name.endswith((".yaml", ".py")):  # a file of that name
            continue
        known = params
        for part in name.split("."):
            assert part in known, f"{page.name} names {name}"
            known = known[part]


@pytest.mark.parametrize("page", TODAY, ids=lambda page: page.name)
def test_files_of_the_project_that_are_named_are_there(page):
    for name in re.findall(r"\b(?:ost|tasks|flows|tests|docs|benchmarks)/[\w/-]+\.[a-z]+\b", page.read_text()):
        assert "NAME" in name or (ROOT / name).is_file(), f"{page.name} names {name}"


def test_the_architecture_is_drawn_as_the_code_is():
    assert FILE.read_text() == draw(), "the rooms or their imports have changed: run `make docs`"


def test_every_room_is_described_and_none_that_is_not_there():
    page = (ROOT / "docs/architecture.md").read_text()
    rooms = {path.stem for path in (ROOT / "ost").iterdir() if path.is_dir() or path.suffix == ".py"}
    told = set(re.findall(r"\*\*`(\w+)`\*\*", page))
    assert told == rooms - {"__init__", "__pycache__"} | {"tasks", "flows", "stack"}
