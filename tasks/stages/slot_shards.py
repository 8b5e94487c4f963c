"""Shards scored on all devices that are free: one process a device, this one among them."""

import contextlib
import functools
import queue
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ost.execution.device import confine
from ost.processes import process_pool
from ost.scoring.methods.scorer import Scorer
from ost.scoring.shards import Job, prepare_scorer, score_shard
from tasks.slots import POLL, Slots
from tasks.stages.reproducible import make_reproducible

Positions = Sequence[int]


class SlotRunner:
    """Scores shards in this process, and in one on each device that is free meanwhile, until none is left.

    What all of them need, such as the training on the anchors, is computed here before any shard goes out.
    """

    def __init__(self, slots: Slots):
        self._slots = slots

    def __call__(self, job: Job, shards: Sequence[Positions], scorer: Scorer | None = None) -> Iterator[int]:
        """Score the shards; yields the size of each as it is published. Raises what a shard raised.

        `scorer`: the job's, where it is prepared already.
        """
        if not shards:
            return
        scorer = scorer or prepare_scorer(job)
        left, found = deque(shards), queue.SimpleQueue()
        most = min(len(self._slots.devices.names), len(shards)) - 1
        with ThreadPoolExecutor(max(1, most)) as helpers:
            try:
                for _ in range(most):
                    helpers.submit(self._help, job, left, found)
                for _ in shards:
                    yield self._next(job, left, found, scorer)
            finally:
                left.clear()  # so that, after an error, nobody goes on

    def _next(self, job: Job, left: deque[Positions], found: queue.SimpleQueue, scorer: Scorer) -> int:
        """The size of one more shard: that a helper has scored, or that is scored here."""
        with contextlib.suppress(queue.Empty):
            return _size(found.get_nowait())
        with contextlib.suppress(IndexError):
            return score_shard(job, left.popleft(), scorer)
        return _size(found.get())

    def _help(self, job: Job, left: deque[Positions], found: queue.SimpleQueue) -> None:
        """Put the sizes of shards, scored in a process on a free device, or what went wrong there, into `found`."""
        while left:
            if (name := self._slots.take_free()) is None:
                time.sleep(POLL)
                continue
            try:
                self._score_on(name, job, left, found)
            except Exception as error:
                found.put(error)
                return
            finally:
                self._slots.give_back(name)

    def _score_on(self, name: str, job: Job, left: deque[Positions], found: queue.SimpleQueue) -> None:
        accelerator = name if self._slots.devices.accelerated else None
        with process_pool(1, __name__, _start, accelerator) as pool, contextlib.suppress(IndexError):
            while True:
                found.put(pool.submit(_score, job, left.popleft()).result())


def _size(found: int | Exception) -> int:
    if isinstance(found, Exception):
        raise found
    return found


def _start(accelerator: str | None) -> None:
    if accelerator:
        confine(accelerator)


def _score(job: Job, positions: Positions) -> int:
    return score_shard(job, positions, worker_scorer(job))


@functools.lru_cache(maxsize=1)
def worker_scorer(job: Job) -> Scorer:
    """The job's scorer, prepared once in a process that scores shards alone, and ends with the run."""
    make_reproducible(job.threads)
    return prepare_scorer(job)
