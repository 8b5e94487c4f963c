"""Arms: the ways to choose training samples, by name. Every file of this folder that has `ARMS` adds its own."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from ost.arms.arm import POOL, TRUTH, Arm, Material, Scores, ScoreTable
from ost.errors import ConfigError

__all__ = ["POOL", "TRUTH", "Arm", "Material", "ScoreTable", "Scores", "arm_of", "arms", "scores_of"]


@functools.cache
def arms() -> Mapping[str, Arm]:
    """Every arm by its name; models are loaded by none of their files before they are needed."""
    files = sorted(found.name for found in pkgutil.iter_modules(__path__, f"{__name__}."))
    known = [arm for file in files for arm in getattr(importlib.import_module(file), "ARMS", ())]
    return MappingProxyType({arm.name: arm for arm in sorted(known, key=lambda arm: arm.place)})


def arm_of(name: str) -> Arm:
    """The arm of a name; raises ConfigError for none."""
    if name not in arms():
        raise ConfigError(f"no arm is named {name!r}; known: {', '.join(arms())}")
    return arms()[name]


def scores_of(name: str) -> Scores:
    """The scores of a name, such as `lookahead`, that an arm chooses by; raises ConfigError for none."""
    known = {arm.by.name: arm.by for arm in arms().values() if isinstance(arm.by, Scores)}
    if name not in known:
        raise ConfigError(f"no scores are named {name!r}; known: {', '.join(known)}")
    return known[name]
