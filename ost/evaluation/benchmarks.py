"""Several benchmarks in one sample set: a folder's files, each of them a kind of question."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ost.data import Dataset, Samples
from ost.data.sample import Sample
from ost.errors import DataError


class ByFile(Samples):
    """A benchmark whose samples that name no task are of one that is called like their file."""

    def __init__(self, benchmark: Dataset, tasks: Sequence[str]):
        self.benchmark, self.tasks = benchmark, tasks

    def __len__(self) -> int:
        return len(self.benchmark)

    def at(self, places: Sequence[int]) -> list[Sample]:
        """See `Samples.at`."""
        found = self.benchmark.at(places)
        return [replace(sample, task=self.tasks[place]) for sample, place in zip(found, places, strict=True)]

    def ids(self) -> list[str]:
        """See `Samples.ids`."""
        return self.benchmark.ids()


def benchmark_tasks(benchmark: Dataset) -> list[str]:
    """The task of each sample: its own, or, where the benchmark came in several files, the name of its file."""
    tasks = benchmark.table(["task"])["task"].to_pylist()
    try:
        files = benchmark.table(["file"])["file"].to_pylist()
    except DataError:  # samples that were not ingested
        return tasks
    if len(set(files)) < 2:
        return tasks
    return [task or Path(file).name.partition(".")[0] for task, file in zip(tasks, files, strict=True)]


def by_file(benchmark: Dataset) -> Samples:
    """The benchmark with the tasks that it is judged by."""
    return ByFile(benchmark, benchmark_tasks(benchmark))
