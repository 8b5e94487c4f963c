"""Options of a command that are keys of the settings: their types, defaults and bounds are the section's own."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import typer

from ost.settings import Section, parse_section

Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", resolve_path=True, help="Folder that holds params.yaml and dvc.yaml.")
]


def with_keys(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each key of its sections.

    A section is a keyword `Annotated[SECTION, {key: help}]`; the command is called with the one that the options make.
    Raises ConfigError for a value that it refuses.
    """
    signature = inspect.signature(command)
    kinds = {name: get_args(one.annotation) for name, one in signature.parameters.items()}
    sections = {name: kind for name, kind in kinds.items() if kind and isinstance(kind[-1], dict)}

    @functools.wraps(command)
    def called(**given: object) -> None:
        for name, (section, helps) in sections.items():
            own = {key: given.pop(key) for key in helps}
            given[name] = parse_section(section, own, "the command line")
        command(**given)

    expanded = [one for name, one in signature.parameters.items() if name not in sections]
    expanded += [_option(section, *told) for section, helps in sections.values() for told in helps.items()]
    called.__signature__ = signature.replace(parameters=expanded)
    return called


def named(path: Path | None) -> Path | None:
    """A path that something is written to, as it is; refused where it has no name."""
    if path is not None and not path.name:
        raise typer.BadParameter(f"{str(path)!r} names nothing that could be written")
    return path


def _option(section: type[Section], key: str, text: str) -> inspect.Parameter:
    field, names = section.model_fields[key], {"ge": "min", "le": "max"}
    bounds = {names[name]: getattr(one, name) for one in field.metadata for name in names if hasattr(one, name)}
    kind = Annotated[get_type_hints(section)[key], typer.Option(help=text, **bounds)]
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kind)
