"""Subsets and trainings: what each arm keeps at each fraction, and each training of the target that is asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from ost.arms import Arm, arm_of, arms
from ost.errors import ConfigError
from ost.types import TrainingProtocol

PURE = "pure"
"""In place of a fraction: as many samples as are expected to be `select.purity` right."""
BASE = "base"
"""Key of the untrained target, which is evaluated like any training."""


@dataclass(frozen=True)
class Subset:
    """What one arm keeps at one fraction."""

    name: str
    fraction: float | Literal["pure"]
    """1 for an arm that decides itself how much it keeps."""

    @property
    def arm(self) -> Arm:
        """The arm; raises ConfigError for a name that is none's."""
        return arm_of(self.name)

    @property
    def key(self) -> str:
        """Name in stages and paths, such as `lookahead-20`."""
        share = PURE if self.fraction == PURE else f"{100 * self.fraction:g}".replace(".", "_")
        return self.name if self.arm.whole else f"{self.name}-{share}"

    @property
    def label(self) -> str:
        """What a person calls it, such as `Lookahead 20 %`."""
        return self.arm.label.format(share=PURE if self.fraction == PURE else f"{100 * self.fraction:.3g} %")

    @property
    def share(self) -> float | None:
        """The fraction as `Arm.choose` takes it."""
        return None if self.fraction == PURE else self.fraction

    @classmethod
    def parse(cls, key: str) -> "Subset":
        """The subset of a key; raises ConfigError for none."""
        if key in arms() and arms()[key].whole:
            return cls(key, 1.0)
        name, _, share = key.rpartition("-")
        percent = _percent(share)
        if percent is not None and name in arms() and not 0 < percent <= 100:
            raise ConfigError(f"{key}: an arm keeps more than 0 % of the pool and at most 100 %, and not {percent:g} %")
        fraction = PURE if share == PURE else percent and percent / 100
        if not fraction or cls(name, fraction).key != key:
            raise ConfigError(
                f"no subset is named {key!r}; one is named like lookahead-20 or lookahead-12_5 by its arm and percent, "
                "or like judge by an arm alone that decides itself how much it keeps"
            )
        return cls(name, fraction)


@dataclass(frozen=True)
class Training:
    """One training of the target: on a subset, under a protocol; its seed is its workspace's."""

    subset: Subset
    protocol: TrainingProtocol

    @property
    def key(self) -> str:
        """Name in stages, paths and MLflow's registry, such as `lookahead-20-B`."""
        return f"{self.subset.key}-{self.protocol}"

    @classmethod
    def parse(cls, key: str) -> "Training":
        """The training of a key; raises ConfigError for none."""
        subset, _, protocol = key.rpartition("-")
        if protocol not in get_args(TrainingProtocol):
            raise ConfigError(f"no training is named {key!r}; one is named like lookahead-20-B")
        return cls(Subset.parse(subset), protocol)


def subsets_of(names: Iterable[str], fractions: Sequence[float | Literal["pure"]]) -> list[Subset]:
    """Each arm at each of the fractions, or once where it decides itself how much it keeps.

    `pure` is a fraction of arms by utility alone. Raises ConfigError for an arm that is not known.
    """
    shares = {arm: [1.0] if arm.whole else fractions for arm in map(arm_of, names)}
    return [Subset(arm.name, one) for arm, own in shares.items() for one in own if one != PURE or arm.utility]


def trainings_of(subsets: Iterable[Subset], protocols: Sequence[TrainingProtocol]) -> list[Training]:
    """Each subset under each protocol. Full-SFT is the same run under both, so it is trained once."""
    return [
        Training(subset, protocol) for subset in subsets for protocol in ("B" if subset.name == "full" else protocols)
    ]


def _percent(share: str) -> float | None:
    """The percentage that a key's last part, such as `12_5`, stands for; None where it stands for none."""
    try:
        percent = float(share.replace("_", "."))
    except ValueError:
        return None
    return percent if isfinite(percent) else None
