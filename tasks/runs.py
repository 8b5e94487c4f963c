"""The training runs that arms and protocols make."""

from dataclasses import dataclass

from ost.errors import WorkspaceError
from ost.selection import ARMS
from ost.types import Protocol_

BASE = "base"
"""Key of the untrained target, which is evaluated like any run."""


@dataclass(frozen=True)
class Run:
    """One arm under one protocol."""

    arm: str
    protocol: Protocol_

    @property
    def key(self) -> str:
        """Name in stages and paths, such as `ost-B`."""
        return f"{self.arm}-{self.protocol}"

    @classmethod
    def parse(cls, key: str) -> "Run":
        """The run of a key; raises WorkspaceError for one that is not a run's."""
        arm, _, protocol = key.rpartition("-")
        if arm not in ARMS or protocol not in ("A", "B"):
            raise WorkspaceError(f"no such run: {key!r}; known: {', '.join(run.key for run in RUNS)}")
        return cls(arm, protocol)


RUNS: tuple[Run, ...] = (
    Run("full", "B"),
    *(Run(arm, protocol) for arm in ARMS if arm != "full" for protocol in ("B", "A")),
)
"""Every run of a curation. Full-SFT is the same run under both protocols, so it is trained once."""
