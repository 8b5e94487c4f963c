"""The arms by name: what each has to know about the pool, and how it chooses by that."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.config import Compare, Params
from ost.errors import ConfigError
from ost.selection import NOT_DRAWN, by_utility, diverse, selection_table, shuffled, size_of
from ost.store import matrix
from ost.types import Protocol_, Strategy

WARMUP = "models/proxy-warm.manifest.json"
SCORES = ("one-step", "lookahead")
"""Ratings that are score tables: by the paper's one step, and by what many steps on the anchors gain."""

CUT = "score below the cut"
UNRATED = "it came without ratings"
REPETITION = "its embedding is like a kept sample's"
DISAGREES = "the judge does not agree with its answer"
WRONG = "its answer is wrong"
UNUSED = "only the anchors are trained on"


@dataclass(frozen=True)
class Rating:
    """What an arm has to know about each sample before it can choose."""

    table: str
    """Path in the workspace."""
    stages: tuple[str, ...] = ()
    """The stages that make the table, last, and what it rests on."""
    manifests: tuple[str, ...] = ()
    """Manifests of all work that the rating took: what choosing costs."""


def _alone(name: str) -> Rating:
    """One that its own stage makes of the data and the bases."""
    return Rating(f"ratings/{name}.parquet", (f"rate-{name}",), (f"ratings/{name}.manifest.json",))


def _warm(name: str) -> Rating:
    """One that takes the warm proxy."""
    own = _alone(name)
    return Rating(own.table, ("warmup", *own.stages), (WARMUP, *own.manifests))


RATINGS: dict[str, Rating] = {
    "none": Rating("data/pool"),
    **{name: _warm(name) for name in (*SCORES, "loss", "color", "rho")},
    **{name: _alone(name) for name in ("less", "deita", "judge")},
    **{name: Rating(f"ratings/{name}.parquet", (f"rate-{name}",)) for name in ("rated", "truth")},
}


@dataclass(frozen=True)
class Arm:
    """One way to choose training samples."""

    label: str
    """What a person calls it; {share} is where the kept share goes."""
    rating: str
    choose: Callable[[pa.Table, float, Params], pa.Table]
    """Rating, fraction and settings → selection table `id, rank, reason`."""
    whole: bool = False
    """Whether it settles itself how much it keeps."""
    with_anchors: bool = False
    """Whether the anchors are trained on beside what it keeps: a floor that tells what they do by themselves."""

    @property
    def is_ceiling(self) -> bool:
        """Whether it chooses by the truth, which no user has."""
        return self.rating == "truth"


def _draw(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    """The same for the same seed whatever the pool's order."""
    ids = table["id"].to_pylist()
    return selection_table(ids, shuffled(ids, params.seed)[: size_of(table, fraction)], NOT_DRAWN)


def _nothing(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    return selection_table(table["id"].to_pylist(), [], UNUSED)


def _by_utility(table: pa.Table, fraction: float, params: Params, strategy: Strategy) -> pa.Table:
    return by_utility(table, fraction, params.select, params.seed, strategy)


def _by_score(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    return selection_table(table["id"].to_pylist(), _ranked(table)["id"].to_pylist()[: size_of(table, fraction)], CUT)


def _rated(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    """By the lowest axis, then by the mean of all; equal ones as the seed draws them, whatever the pool's order."""
    rated = table.filter(pc.is_finite(table["least"])).select(["id", "least", "mean"])
    marks = {name: mark for name, *mark in zip(*(column.to_pylist() for column in rated.columns), strict=True)}
    ranked = sorted(shuffled(marks, params.seed), key=marks.__getitem__, reverse=True)
    kept = ranked[: size_of(table, fraction)]
    reasons = {name: NOT_DRAWN if marks[name] == marks[kept[-1]] else CUT for name in ranked}
    return selection_table(table["id"].to_pylist(), kept, UNRATED, reasons)


def _deita(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    ranked = _ranked(table)
    ids, embeddings = ranked["id"].to_pylist(), matrix(ranked, "embedding").astype(np.float32)
    kept = diverse(embeddings, size_of(table, fraction), params.deita.threshold)
    passed = dict.fromkeys(ids[: max(kept, default=-1) + 1], REPETITION)
    return selection_table(table["id"].to_pylist(), [ids[index] for index in kept], CUT, passed)


def _agreed(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    return selection_table(table["id"].to_pylist(), table.filter(table["agrees"])["id"].to_pylist(), DISAGREES)


def _right(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    return selection_table(table["id"].to_pylist(), _right_ids(table), WRONG)


def _right_drawn(table: pa.Table, fraction: float, params: Params) -> pa.Table:
    """As many as the fraction of the whole pool is, or all that are right."""
    right = _right_ids(table)
    kept = shuffled(right, params.seed)[: size_of(table, fraction)]
    return selection_table(table["id"].to_pylist(), kept, WRONG, dict.fromkeys(right, NOT_DRAWN))


ARMS: dict[str, Arm] = {
    "full": Arm("Full-SFT", "none", _draw, whole=True),
    "random": Arm("Random {share}", "none", _draw),
    "anchors": Arm("Anchors only", "none", _nothing, whole=True, with_anchors=True),
    "random-anchors": Arm("Random {share} + anchors", "none", _draw, with_anchors=True),
    "low-loss": Arm("Low loss {share}", "loss", _by_score),
    "less": Arm("LESS {share}", "less", _by_score),
    "color": Arm("CoLoR-Filter {share}", "color", _by_score),
    "rho": Arm("RHO-LOSS {share}", "rho", _by_score),
    "deita": Arm("DEITA {share}", "deita", _deita),
    "judge": Arm("LLM-as-a-Judge", "judge", _agreed, whole=True),
    "rated": Arm("FineVision's ratings {share}", "rated", _rated),
    "ost": Arm("OST top {share}", "one-step", partial(_by_utility, strategy="top")),
    "ost-quota": Arm("OST {share} by quota", "one-step", partial(_by_utility, strategy="quota")),
    "ost-vote": Arm("OST {share} by vote", "one-step", partial(_by_utility, strategy="vote")),
    "ost-cover": Arm("OST {share} for breadth", "one-step", partial(_by_utility, strategy="cover")),
    "lookahead": Arm("Lookahead top {share}", "lookahead", partial(_by_utility, strategy="top")),
    "lookahead-draw": Arm("Lookahead {share}, drawn", "lookahead", partial(_by_utility, strategy="draw")),
    "lookahead-spread": Arm("Lookahead {share} by spread", "lookahead", partial(_by_utility, strategy="spread")),
    "lookahead-cover": Arm("Lookahead {share} for breadth", "lookahead", partial(_by_utility, strategy="cover")),
    "clean": Arm("Clean {share}, drawn", "truth", _right_drawn),
    "oracle": Arm("Oracle: all that is clean", "truth", _right, whole=True),
}
"""`rated` needs a pool that came with FineVision's ratings. `clean` and `oracle` know the truth: ceilings that no user
can have, for worlds in which it is known."""


@dataclass(frozen=True)
class Subset:
    """What one arm keeps at one fraction."""

    arm: str
    fraction: float
    """1 for an arm that settles itself how much it keeps."""

    @property
    def key(self) -> str:
        """Name in stages and paths, such as `ost-20`."""
        return self.arm if ARMS[self.arm].whole else f"{self.arm}-{100 * self.fraction:g}".replace(".", "_")

    @property
    def label(self) -> str:
        """What a person calls it."""
        return ARMS[self.arm].label.format(share=f"{100 * self.fraction:.3g} %")

    @classmethod
    def parse(cls, key: str) -> "Subset":
        """The subset of a key; raises ConfigError for none."""
        arm, _, share = key.rpartition("-")
        if key in ARMS and ARMS[key].whole:
            return cls(key, 1.0)
        try:
            return cls(check_arm(arm), float(share.replace("_", ".")) / 100)
        except ValueError:
            raise ConfigError(f"no subset is named {key!r}; one is named like ost-20") from None


@dataclass(frozen=True)
class Trial:
    """One training of the target: on a subset, under a protocol."""

    subset: Subset
    protocol: Protocol_

    @property
    def key(self) -> str:
        """Name in paths, such as `ost-20-B`."""
        return f"{self.subset.key}-{self.protocol}"

    @property
    def stage(self) -> str:
        """Its stage, such as `trial@ost-20-B`; `trial-anchored@…` where the anchors are trained on as well."""
        return f"{'trial-anchored' if ARMS[self.subset.arm].with_anchors else 'trial'}@{self.key}"

    @classmethod
    def parse(cls, key: str) -> "Trial":
        """The trial of a key; raises ConfigError for none."""
        subset, _, protocol = key.rpartition("-")
        return cls(Subset.parse(subset), protocol)


def plan(settings: Compare) -> list[Trial]:
    """All trials of one seed. Full-SFT is the same run under both protocols, so it is trained once.

    Raises ConfigError for an arm that is not known.
    """
    trials = []
    for arm in map(check_arm, settings.arms):
        subsets = [Subset(arm, share) for share in ((1.0,) if ARMS[arm].whole else settings.fractions)]
        protocols = ("B",) if arm == "full" else settings.protocols
        trials += [Trial(subset, protocol) for subset in subsets for protocol in protocols]
    return trials


def check_arm(name: str) -> str:
    """The name, if it is an arm's; raises ConfigError for another."""
    if name not in ARMS:
        raise ConfigError(f"no arm is named {name!r}; known: {', '.join(ARMS)}")
    return name


def _ranked(table: pa.Table) -> pa.Table:
    """The samples with a finite score, the best first; ties by id."""
    return table.filter(pc.is_finite(table["score"])).sort_by([("score", "descending"), ("id", "ascending")])


def _right_ids(table: pa.Table) -> list[str]:
    return table.filter(pc.invert(table["wrong"]))["id"].to_pylist()
