"""What the entries of the accelerator's benchmark share: files, models, and a clock that ends them."""

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.qwen_shape import REAL_2B, TINY, model_of, processor_of, samples_of
from ost.data import Sample, write_samples
from ost.encoding import Batch
from ost.execution.loader import Loader, processes_for
from ost.models import Checkpoint, add_adapter, load_checkpoint
from ost.settings import Score

POOL, FEW, ANCHORS = 2048, 96, 16
"""Samples of the pool, of a CPU's, and of the anchors."""
RANK = 16
"""Of the adapter."""


class TimeUp(Exception):
    """The entry has had its time."""


class Watch:
    """Told of progress, it knows the rate of what is done under a note, and raises TimeUp once the time is over."""

    def __init__(self, limit: float, note: str = "", samples: int = 1):
        self._limit, self._note, self._samples, self._began = limit, note, samples, time.perf_counter()
        self._seen: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` steps, of so many samples each."""
        if not note.startswith(self._note):
            return
        self._seen.append((time.perf_counter(), done * self._samples))
        if self._seen[-1][0] - self._seen[0][0] > self._limit:
            raise TimeUp

    def run(self, work: Callable[[], Any]) -> dict[str, Any]:
        """What it took: samples, their rate, and the seconds before the first of them were done."""
        with contextlib.suppress(TimeUp):
            work()
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        if len(self._seen) == 1:
            first, before = self._began, 0
        return {
            "samples_per_second": (after - before) / (last - first),
            "samples": after,
            "seconds_to_first": self._seen[0][0] - self._began,
        }


class Ground:
    """What entries share: files of a model and of samples, and the models made of them, held as long as needed."""

    def __init__(self, folder: Path, tiny: bool, limit: float):
        """`limit`: seconds after which an entry's work is ended."""
        self.folder, self.tiny, self.limit = folder, tiny, limit
        self.device = torch.device("cuda" if torch.cuda.is_available() and not tiny else "cpu")
        self.encoders = 2 if tiny else processes_for(self.device)
        """Processes of `encoded`."""
        shape, count = (TINY, FEW) if tiny else (REAL_2B, POOL)
        self.processor = processor_of(shape)
        self.lean = model_of(shape, self.processor, self.device.type).to(torch.bfloat16)
        """The model in bf16."""
        Checkpoint(self.lean, self.processor).save(folder / "proxy")
        drawn = samples_of(shape, count + ANCHORS)
        self.pool, self.anchors = drawn[:count], drawn[count:]
        write_samples(folder / "pool.parquet", self.pool)
        write_samples(folder / "anchors.parquet", self.anchors)

    @functools.cached_property
    def proxy(self) -> Checkpoint:
        """The checkpoint as the library loads it."""
        self.forget()
        return load_checkpoint(self.folder / "proxy", self.device)

    @functools.cached_property
    def adapted(self) -> Checkpoint:
        """The same with a fresh adapter."""
        proxy = self.proxy
        add_adapter(proxy.model, RANK, 0)
        self.__dict__["adapted"] = proxy
        return proxy

    def forget(self) -> None:
        """Let go of the models."""
        self.lean = None
        for name in ("proxy", "adapted"):
            self.__dict__.pop(name, None)
        collect()

    def watch(self, note: str = "", samples: int = 1) -> Watch:
        """A watch for an entry, from now on."""
        return Watch(self.limit, note, samples)

    def settings(self, **changes: Any) -> Score:
        """Of a run without checks, in bf16 on an accelerator."""
        return Score(checks=0, precision="fp32" if self.device.type == "cpu" else "bf16", **changes)

    def encoded(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Batches of samples of like size, encoded by the loader's processes."""
        ordered = sorted(samples, key=lambda sample: len(sample.question) + len(sample.answer))
        parts = [list(ordered[at : at + size]) for at in range(0, len(ordered), size)]
        for _, batch in Loader(self.processor, self.encoders).ahead(parts):
            yield batch


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def collect() -> None:
    """Give back what nothing holds any longer."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
