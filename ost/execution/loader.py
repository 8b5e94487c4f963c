"""Inputs encoded ahead of their use, in processes of their own, so that no accelerator waits for images."""

import functools
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import torch
import torch.multiprocessing  # so that tensors come back through shared memory
from transformers import PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from ost.data import Sample
from ost.encoding import Batch, Encoder
from ost.errors import DataError
from ost.processes import process_pool

AHEAD = 2
"""Batches that are encoded and not yet used, beside those that each process is at."""
MOST = 14
"""Processes, where nobody says how many: more are faster than any accelerator of today reads."""
SHARED, BATCH = Path("/dev/shm"), 256 << 20
"""Where Linux holds shared memory, of which a container may have little; and bytes of it that a large batch takes."""


Form = Literal["training", "prompts"]


class Loader:
    """Encodes batches of samples for training and scoring, in this process or in others; their order is kept.

    What is encoded is the same wherever that is done. The processes start with the first batches, are those of all
    loaders that have the same processor, and end with the last of them.
    """

    def __init__(
        self, processor: ProcessorMixin | PreTrainedTokenizerBase, processes: int = 0, form: Form = "training"
    ):
        """`processes`: 0 to encode in this one, as batches are asked for. `form`: see the `Encoder`'s methods."""
        self.encoder, self._processes, self._form = Encoder(processor), processes, form

    def ahead(self, batches: Iterable[list[Sample]]) -> Iterator[tuple[list[Sample], Batch]]:
        """Each batch's samples, and their encoding, on the CPU. Raises DataError where one cannot be encoded."""
        if not self._processes:
            for samples in batches:
                yield samples, getattr(self.encoder, self._form)(samples)
            return
        waiting = deque()
        try:
            for samples in batches:
                waiting.append((samples, self._pool.submit(_encode, self._form, samples)))
                if len(waiting) >= AHEAD + self._processes:
                    own, encoded = waiting.popleft()
                    yield own, encoded.result()
            while waiting:
                own, encoded = waiting.popleft()
                yield own, encoded.result()
        except BrokenProcessPool as error:
            _pools.pop(self._key, None)
            raise DataError(
                "a process that encodes samples was killed from outside, most likely for want of memory: lower "
                "compute.encoders, and run again; what is scored is kept"
            ) from error
        finally:
            for _, encoded in waiting:
                encoded.cancel()

    @functools.cached_property
    def _pool(self) -> ProcessPoolExecutor:
        if (pool := _pools.get(self._key)) is None:
            pool = _pools[self._key] = process_pool(self._processes, __name__, _start, self.encoder.processor)
        return pool

    @property
    def _key(self) -> tuple[int, int]:
        return id(self.encoder.processor), self._processes  # a pool holds its processor, so no other has this identity


def processes_for(device: torch.device) -> int:
    """How many processes encode for a device: none where it is the CPU, which they would take from it.

    No more than cores are free, and shared memory holds the batches of.
    """
    if device.type == "cpu":
        return 0
    held = shutil.disk_usage(SHARED).free // BATCH - AHEAD if SHARED.is_dir() else MOST
    return max(0, min(MOST, len(os.sched_getaffinity(0)) - 2, held))


_pools: WeakValueDictionary[tuple[int, int], ProcessPoolExecutor] = WeakValueDictionary()
"""The processes of this process's loaders."""
_encoder: Encoder | None = None
"""In a process of a loader's, its encoder: handed over once, as the process starts."""


def _start(processor: ProcessorMixin | PreTrainedTokenizerBase) -> None:
    global _encoder
    torch.set_num_threads(1)
    _encoder = Encoder(processor)


def _encode(form: Form, samples: Sequence[Sample]) -> Batch:
    return getattr(_encoder, form)(samples)
