"""What an arm is: one way to choose training samples, and what it has to know of them before it can."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ost.cost import Cost
from ost.selection import selection_table, size_of
from ost.settings import Execution, Settings
from ost.types import Progress

POOL, TRUTH = "pool", "truth"
"""What an arm knows that needs no scores: which samples there are, and which of them are wrong."""
CUT = "score below the cut"


@dataclass
class ScoreTable:
    """Scores of a pool, a row `id, …` a sample, and what is told of them."""

    rows: pa.Table
    metrics: dict[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    warnings: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """More than numbers, for metrics/score-NAME.json."""
    turns: pa.Table | None = None
    """A row `id, turn, utility, loss, …` a learned turn, of a method that tells turns apart."""


class Material(Protocol):
    """What scores are made of: sample sets, models and settings of one workspace."""

    params: Settings
    progress: Progress
    device: str
    """Where models are run: auto, cpu or cuda."""
    execution: Execution
    """How much goes through a model at once, and what encodes it."""

    def samples(self, name: str) -> Any:
        """The sample set `pool` or `anchors`, an `ost.data.Dataset`."""

    def model(self, name: str) -> Any:
        """The checkpoint `proxy`, `proxy-warm` or `judge`, an `ost.models.Checkpoint` on the device in use."""

    def score(self, name: str, **changes: object) -> ScoreTable:
        """The pool's utilities by `settings.score` with some changes; a killed run goes on where it stood."""

    def judge(self) -> Any:
        """The model that judges, an `ost.baselines.judge.Chat`."""


@dataclass(frozen=True)
class Scores:
    """What an arm has to know of each sample of the pool, and how that is found out."""

    name: str
    """Of its stage `score-NAME` and its table scores/NAME.parquet."""
    make: Callable[[Material], ScoreTable]
    reads: tuple[str, ...]
    """Sample sets and models: pool, anchors, proxy, proxy-warm, judge; or a setting that may name a local folder."""
    settings: tuple[str, ...] = ()
    """Parameters that it depends on, such as `score` or `less.dimensions`."""
    utility: bool = False
    """Whether it is a utility table: with a toxic flag, and all that `ost.score` gives."""
    tells_turns: Callable[[Settings], bool] = lambda settings: False
    """Whether a table of turns comes with it."""


Choose = Callable[[pa.Table, float | None, Settings], pa.Table]
"""Table, fraction and settings → selection table `id, rank, reason`. The fraction is None for as many as are expected
to be `select.purity` right."""


@dataclass(frozen=True)
class Arm:
    """One way to choose training samples."""

    name: str
    label: str
    """What a person calls it; {share} is where the kept share goes."""
    choose: Choose
    by: Scores | Literal["pool", "truth"] = POOL
    """What it chooses by."""
    place: int = 50
    """Order in tables: floors from 0, rivals from 10, arms by utility from 70, ceilings from 90."""
    whole: bool = False
    """Whether it decides itself how much it keeps."""
    with_anchors: bool = False
    """Whether the anchors are trained on beside what it keeps: a floor that tells what they do by themselves."""
    settings: tuple[str, ...] = ()
    """Parameters that its choice depends on, beside the seed."""
    warn: Callable[..., list[str]] = lambda table, settings, fraction=None: []
    """Table, settings and the fraction, where one is asked for → what a person should know of the choice."""
    colour: str = "sky"
    """In charts: a name of `ost.report.charts.LIGHT`."""

    @property
    def utility(self) -> bool:
        """Whether it chooses by utility, as this project does, and not as a rival or a floor."""
        return isinstance(self.by, Scores) and self.by.utility

    @property
    def is_ceiling(self) -> bool:
        """Whether it chooses by the truth, which no user has."""
        return self.by == TRUTH


def best(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """The samples with the highest `score`, ties by id; those without a finite one are left out."""
    return selection_table(table["id"].to_pylist(), ranked(table)["id"].to_pylist()[: size_of(table, fraction)], CUT)


def ranked(table: pa.Table) -> pa.Table:
    """The samples with a finite `score`, the best first; ties by id."""
    return table.filter(pc.is_finite(table["score"])).sort_by([("score", "descending"), ("id", "ascending")])
