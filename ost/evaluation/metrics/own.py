"""The metric python:MODULE.FUNCTION: a function of the user's own."""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path

from ost.errors import ConfigError

PREFIX = "python:"


def load_own(name: str) -> Callable[[str, str], float]:
    """The function (answer, reference) → bool or number in [0, 1] of a name; its module may lie in the working folder.

    Raises ConfigError where it cannot be imported; calling it does where it fails, or returns something else.
    """
    path = name.removeprefix(PREFIX)
    module, _, function = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{name} names no function: write {PREFIX}MODULE.FUNCTION, such as {PREFIX}my_metrics.score")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        own = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ConfigError(
            f"{name} cannot be imported ({type(error).__name__}: {error}): {module}.py has to lie in {here}, or be "
            f"installed, and to have a function {function}"
        ) from error
    if not callable(own):
        raise ConfigError(f"{name} is no function, but a {type(own).__name__}")

    def score(answer: str, reference: str) -> float:
        try:
            found = own(answer, reference)
            value = float(found)
        except Exception as error:
            raise ConfigError(
                f"{name}({answer!r:.100}, {reference!r:.100}): {type(error).__name__}: {error}"
            ) from error
        if isinstance(found, str) or not math.isfinite(value) or not 0 <= value <= 1:
            raise ConfigError(
                f"{name}({answer!r:.100}, {reference!r:.100}) gives {found!r:.100}: it has to be a bool or a number "
                "from 0 to 1"
            )
        return value

    return score
