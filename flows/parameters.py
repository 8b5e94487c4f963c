"""Changing params.yaml from the command line, comments kept."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from ost.errors import ConfigError
from ost.store import publish
from tasks.plan import Plan
from tasks.settings import params_text, parse_params


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, as params.yaml has it, where ruamel would leave the value empty."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def set_params(path: Path, assignments: list[str]) -> None:
    """Write assignments such as `select.purity=0.9` into params.yaml, once all of them together are valid and what
    they plan can be had.

    Raises ConfigError, and leaves the file alone, where one is not.
    """
    document, yaml = changed_params(path, assignments), _yaml()
    with publish(path) as part, part.open("w") as stream:
        yaml.dump(document, stream)


def changed_params(path: Path, assignments: list[str]) -> dict:
    """A params.yaml with assignments made, comments kept; raises ConfigError as `set_params` does."""
    document = _parse(_yaml(), params_text(path), str(path)) or {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, such as select.purity=0.9; found {assignment!r}")
        _assign(document, name.strip(), _parse(YAML(typ="safe"), value, repr(value)))
    Plan(parse_params(document, source="--set")).check()
    return document


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes, yaml.Representer, yaml.width = True, _Representer, 4096
    return yaml


def _assign(document: dict, name: str, value: object) -> None:
    *sections, key = name.split(".")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise ConfigError(f"{name}: {section} is a value, not a section")
    document[key] = value


def _parse(yaml: YAML, text: str, name: str) -> object:
    try:
        return yaml.load(text)
    except YAMLError as error:
        raise ConfigError(f"{name} is not a YAML value: {error}") from error
