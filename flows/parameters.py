"""Changing params.yaml from the command line, comments kept."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ost.config import parse_params
from ost.errors import ConfigError
from ost.store import publish


def set_params(path: Path, assignments: list[str]) -> None:
    """Write assignments such as `select.fraction=0.1` into params.yaml, once all of them together are valid.

    Raises ConfigError, and leaves the file alone, where one is not.
    """
    if not path.is_file():
        raise ConfigError(
            f"no {path.name} in {path.parent.resolve()}; run in a workspace, or name one with --workspace"
        )
    yaml = YAML()
    yaml.preserve_quotes = True
    document = yaml.load(path.read_text()) or {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, such as select.fraction=0.1; found {assignment!r}")
        _assign(document, name.strip().split("."), _parse(value))
    parse_params(document, source="--set")
    with publish(path) as part, part.open("w") as stream:
        yaml.dump(document, stream)


def _assign(document: dict, name: list[str], value: object) -> None:
    *sections, key = name
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise ConfigError(f"{'.'.join(name)}: {section} is a value, not a section")
    document[key] = value


def _parse(text: str) -> object:
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ConfigError(f"{text!r} is not a YAML value: {error}") from error
