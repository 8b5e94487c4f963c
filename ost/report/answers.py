"""Answers on the benchmark, ready for the page: where two models part, and what a model says where it is wrong."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ost.data import Dataset, Sample
from ost.evaluation.benchmarks import benchmark_tasks
from ost.selection import shuffled

PER_TASK = 3
"""Questions of a task that are shown, each way."""
TASKS = 6
"""Tasks that are shown: those in which the two part most often."""
SHOWN = 4
"""Wrong answers that are shown of a model."""
POOR = 0.5
"""Accuracy below which some of a model's wrong answers are shown."""
UNSAID = 0.25
"""Share of a model's answers that are empty or cut above which they are as well."""


@dataclass(frozen=True)
class Answer:
    """What a model said to one question."""

    text: str
    correct: bool
    cut: bool = False
    """Whether it reached the limit of tokens before it ended."""

    @property
    def empty(self) -> bool:
        """Whether nothing was said."""
        return not self.text.strip()


@dataclass(frozen=True)
class Answered:
    """A benchmark question and what was said to it."""

    sample: Sample
    answers: Mapping[str, Answer]
    """Label of a model → its answer."""
    metric: str
    """What compared them with the reference; empty where that is not known."""


@dataclass(frozen=True)
class Answers:
    """All that one model said on the benchmark."""

    label: str
    """What a person calls the model."""
    by_id: Mapping[str, Answer]
    metrics: Mapping[str, str]
    """Task → name of its metric; empty where it is not known."""
    accuracy: float
    tells_cuts: bool
    """Whether it was recorded which answers were cut."""
    asked: str | Mapping[str, str] | None = None
    """`evaluate.metric`, by which the metrics were named or left to `auto`; None where that is not known."""
    limit: int | None = None
    """Tokens that an answer could take; None where that is not known."""
    longer: float | None = None
    """Share of the questions whose references are all longer; None where that is not known."""

    @classmethod
    def read(cls, label: str, table: pa.Table, record: Mapping) -> "Answers":
        """From an evaluation's table `id, prediction, correct` and its record.

        Evaluations of an older version do not tell which answers were `cut`, nor how they were compared.
        """
        tells_cuts = "cut" in table.column_names
        cuts = table["cut"].to_pylist() if tells_cuts else [False] * len(table)
        rows = zip(*(table[name].to_pylist() for name in ("id", "prediction", "correct")), cuts, strict=True)
        told = {name: Answer(*own) for name, *own in rows}
        how = (record.get(name) for name in ("metric", "max_new_tokens", "longer"))
        return cls(label, told, record.get("metrics", {}), record["accuracy"], tells_cuts, *how)

    @property
    def cut(self) -> float | None:
        """Share of the answers that were cut; None where that is not known."""
        return sum(one.cut for one in self.by_id.values()) / max(1, len(self.by_id)) if self.tells_cuts else None

    @property
    def empty(self) -> float:
        """Share of the answers that are empty."""
        return sum(one.empty for one in self.by_id.values()) / max(1, len(self.by_id))

    @property
    def is_poor(self) -> bool:
        """Whether most of the answers are wrong, or more than a quarter are empty or cut."""
        unsaid = sum(one.empty or one.cut for one in self.by_id.values())
        return self.accuracy < POOR or unsaid > UNSAID * len(self.by_id)


@dataclass(frozen=True)
class Parted:
    """Where two models part: questions that one of them answers rightly and the other does not."""

    ours: str
    other: str
    """Labels."""
    questions: int
    gained: int
    """Questions that ours alone answers rightly."""
    lost: int
    """Those that the other alone does."""
    gains: Sequence[Answered]
    losses: Sequence[Answered]
    """Some of each, by task."""


@dataclass(frozen=True)
class Missed:
    """Some of what a model said that is wrong."""

    label: str
    questions: int
    accuracy: float
    cut: float | None
    """Share of its answers that were cut; None where that is not known."""
    empty: float
    """Share of them that are empty."""
    some: Sequence[Answered]
    """Empty answers first, then cut ones."""


def parted(benchmark: Dataset, ours: Answers, other: Answers, seed: int) -> Parted:
    """Compare two models question by question; which questions are shown is drawn by the seed.

    Raises DataError where they answered what is not in the benchmark.
    """
    right = [{name for name, one in model.by_id.items() if one.correct} for model in (ours, other)]
    gained, lost = right[0] - right[1], right[1] - right[0]
    task = _tasks(benchmark)
    most = Counter(task.get(name, "") for name in sorted(gained | lost)).most_common(TASKS)
    shown = []
    for names in (gained, lost):
        by_task = defaultdict(list)
        for name in shuffled(names, seed):
            by_task[task.get(name, "")].append(name)
        some = [name for one in sorted(dict(most)) for name in by_task[one][:PER_TASK]]
        shown.append(_answered(benchmark, some, ours, other))
    return Parted(ours.label, other.label, len(ours.by_id), len(gained), len(lost), *shown)


def missed(benchmark: Dataset, models: Iterable[Answers], seed: int, always: str | None = None) -> list[Missed]:
    """Some wrong answers, drawn by the seed, of each model that is poor, and of the one that is labelled `always`."""
    return [
        Missed(one.label, len(one.by_id), one.accuracy, one.cut, one.empty, _answered(benchmark, some, one))
        for one in models
        if (one.is_poor or one.label == always) and (some := _some_wrong(one, seed))
    ]


def _some_wrong(model: Answers, seed: int) -> list[str]:
    """Ids of SHOWN wrong answers: as many empty ones, cut ones and others as there are, in this order."""
    kinds: tuple[list[str], ...] = [], [], []
    for name in shuffled(model.by_id, seed):
        answer = model.by_id[name]
        if not answer.correct:
            kinds[0 if answer.empty else 1 if answer.cut else 2].append(name)
    in_turn = [(place, kind, name) for kind, own in enumerate(kinds) for place, name in enumerate(own)]
    return [name for _, name in sorted((kind, name) for _, kind, name in sorted(in_turn)[:SHOWN])]


def _answered(benchmark: Dataset, names: Sequence[str], *models: Answers) -> list[Answered]:
    tasks, found = _tasks(benchmark), []
    for sample in benchmark.take(names):
        judged = replace(sample, task=tasks[sample.id])
        told = {one.label: one.by_id[sample.id] for one in models}
        found.append(Answered(judged, told, models[0].metrics.get(judged.task, "")))
    return found


def _tasks(benchmark: Dataset) -> dict[str, str]:
    """Id → the task that its answers are judged by."""
    return dict(zip(benchmark.ids(), benchmark_tasks(benchmark), strict=True))
