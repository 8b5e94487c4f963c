"""The processes that inspect a source: units go out as they are cut, and come back in their order."""

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ost.errors import DataError
from ost.formats import Unit
from ost.ingestion.gate import Gate, Rules, encoder_of
from ost.ingestion.inspector import Inspected, Inspector
from ost.processes import process_pool

ALONE = 3.0
"""Seconds for which this process works by itself: a small source is done before others would have started."""
AHEAD = 3
"""Units that wait for each process: enough to keep it busy, few enough to hold."""


class Workers:
    """So many processes, one of which is this one while there is little to do. Use as a context manager."""

    def __init__(self, rules: Rules, workers: int):
        self.rules, self.workers = rules, workers
        self._began = time.monotonic()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind, error, trace) -> None:
        _inspector.cache_clear()
        _encoder.cache_clear()  # the processor's files may be others the next time
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def inspect(self, units: Iterable[Unit], root: Path, into: Path, memory: Path | None) -> Iterator[Inspected]:
        """What became of each unit, in order. Raises DataError where a process is killed."""
        own, waiting = (self.rules, root, into, memory), deque()
        try:
            for unit in units:
                if self.workers == 1 or (self._pool is None and time.monotonic() - self._began < ALONE):
                    yield _inspect(*own, unit)
                    continue
                self._pool = self._pool or process_pool(self.workers, __name__)
                waiting.append(self._pool.submit(_inspect, *own, unit))
                if len(waiting) > AHEAD * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that reads the data was killed from outside, most likely for want of memory: lower "
                "compute.workers or data.max_pixels, and run again; what was read is kept (a script of your own must "
                'ingest under `if __name__ == "__main__":`)'
            ) from error


def _inspect(rules: Rules, root: Path, into: Path, memory: Path | None, unit: Unit) -> Inspected:
    return _inspector(rules, root, into, memory).inspect(unit)


@functools.lru_cache(maxsize=1)
def _inspector(rules: Rules, root: Path, into: Path, memory: Path | None) -> Inspector:
    """The inspector, made once a process and source."""
    return Inspector(Gate(rules, root, _encoder(rules.processor)), into, memory)


_encoder = functools.lru_cache(maxsize=1)(encoder_of)
"""The encoder, made once a process, for all sources."""
