"""A training on disk: all that it takes to go on with it, in one file that is there whole or not at all."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ost.store import publish, remove

SHARE = 0.02
"""Of a training's time that may go into saving it."""
LEAST = 30.0
"""Seconds between two times that it is saved, at least."""


@dataclass
class Saved:
    """Where a training is saved, under a `key` of all that its outcome depends on: another one's is never gone on with.

    It is saved so rarely that this takes a small share of its time, and its file is removed once its model is kept.
    """

    path: Path
    key: str
    _last: float = field(default_factory=time.perf_counter)
    _took: float = 0.0

    def read(self) -> tuple[dict[str, Tensor], dict] | None:
        """Tensors by their names, and what was told beside them; None where no such training is saved."""
        if not self.path.is_file():
            return None
        with safe_open(self.path, "pt") as file:
            told = json.loads((file.metadata() or {}).get("told", "{}"))
            if told.get("key") != self.key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118

    @property
    def is_due(self) -> bool:
        """Whether enough time has gone by since it was saved last."""
        return time.perf_counter() - self._last >= max(LEAST, self._took / SHARE)

    def write(self, tensors: Mapping[str, Tensor], told: dict) -> None:
        """Save it, in place of what was saved before."""
        start = time.perf_counter()
        held = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        with publish(self.path) as part:
            save_file(held, part, metadata={"told": json.dumps(told | {"key": self.key})})
        self._last = time.perf_counter()
        self._took = self._last - start

    def forget(self) -> None:
        """Remove it: its model is kept now."""
        remove(self.path)
