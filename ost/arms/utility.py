"""The project's own arms: by the paper's one step, and by many steps on the anchors, with each selection strategy."""

from dataclasses import replace
from functools import partial

import pyarrow as pa

from ost.arms.arm import Arm, Material, Scores, ScoreTable
from ost.selection import STRATEGIES, by_utility, warnings_of
from ost.settings import Settings
from ost.types import Method


def one_step(material: Material) -> ScoreTable:
    """The paper's utility, by the method that `score` names, or by `gradient` where that looks further ahead."""
    return material.score("one-step", method=_one_step_method(material.params))


def lookahead(material: Material) -> ScoreTable:
    """What many steps on the anchors gain of each sample's loss."""
    detail = material.params.score.detail  # it walks on all tasks' anchors together
    return material.score("lookahead", method="lookahead", detail=None if detail == "groups" else detail)


def _one_step_method(settings: Settings) -> Method:
    return "gradient" if settings.score.method == "lookahead" else settings.score.method


def choose(table: pa.Table, fraction: float | None, settings: Settings, strategy: str | None = None) -> pa.Table:
    """The part that a strategy, or the one that `select` names, keeps of scored samples."""
    return by_utility(table, fraction, settings.select, settings.seed, strategy)


def warn(table: pa.Table, settings: Settings, fraction: float | None = None) -> list[str]:
    """See `ost.selection.warnings_of`."""
    return warnings_of(table, settings.select, fraction)


TURN_METHODS: tuple[Method, ...] = ("lookahead", "transposed")
"""The methods that compare losses token by token, and so turn by turn."""
READS = ("pool", "anchors", "proxy", "proxy-warm")
ONE_STEP = Scores(
    "one-step",
    one_step,
    READS,
    ("score",),
    utility=True,
    tells_turns=lambda settings: _one_step_method(settings) in TURN_METHODS,
)
LOOKAHEAD = Scores("lookahead", lookahead, READS, ("score",), utility=True, tells_turns=lambda settings: True)


def _arms(label: str, by: Scores, colour: str, place: int) -> tuple[Arm, ...]:
    """The arm that follows `select.strategy`, and one for each strategy that these scores allow."""
    usual = Arm(by.name, f"{label} {{share}}", choose, by, place, settings=("select",), warn=warn, colour=colour)
    allowed = {name: own for name, own in STRATEGIES.items() if by is ONE_STEP or not own.by_task}
    return usual, *(
        replace(
            usual,
            name=f"{by.name}-{name}",
            label=f"{usual.label}, {own.how}",
            choose=partial(choose, strategy=name),
            place=place + 1,
        )
        for name, own in allowed.items()
    )


ARMS = (*_arms("One step", ONE_STEP, "ost", 70), *_arms("Lookahead", LOOKAHEAD, "wide", 80))
"""`one-step` and `lookahead` choose as `select.strategy` says; those with a strategy's name behind them by that one."""
