"""What lmms-eval leaves of a run, read as an evaluation: each sample's answer and score, from its log of samples.

The format is that of lmms-eval 0.7 with `--log_samples`: DATE_samples_TASK.jsonl, a line a sample with an entry for
each metric of the task's process_results, and DATE_results.json with the tasks' own figures
(lmms_eval/evaluator.py, _process_document_results; lmms_eval/loggers/evaluation_tracker.py).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ost.errors import EvaluationError
from ost.evaluation.evaluate import Evaluation

ABOUT = {"doc_id", "doc", "doc_hash", "target", "input", "input_media", "resps", "filtered_resps", "token_counts"}
"""Entries of a line that are no metrics."""
SCORES = ("score", "acc", "accuracy", "correct", "is_correct", "true_false", "exact_match", "hit")
"""Where a metric that is a dict has the sample's score, by the tasks of lmms-eval 0.7."""
SAID = ("parsed_pred", "pred_parsed", "pred_answer", "pred", "prediction")
RIGHT = ("answer", "gt_content", "gt_answer", "ground_truth", "gt", "target", "label")
"""Where it has what was said and what is right, if it has no score."""
SAME = 0.005
"""Most that the mean of a task's scores may differ from the task's own figure, which it may have rounded."""


@dataclass(frozen=True)
class _Task:
    """One task's log."""

    name: str
    rows: list[dict]
    """A line a sample, in the order of the task's documents."""
    own: Mapping[str, object]
    """The task's own figures: "METRIC,FILTER" → number."""
    lower: set[str]
    """Metrics of which less is better."""
    size: int
    """Samples that were to be answered."""


def read_logs(folder: Path) -> tuple[list[str], Evaluation]:
    """The samples' names, TASK/doc_id, and the evaluation that lmms-eval left in a folder, or in folders beneath.

    A sample is a cluster by itself unless its line names images that another one names too: `doc_hash` tells nothing,
    for 0.7.3 hashes a document that it has let go of. Raises EvaluationError where there is no log of samples, or one
    without a number from 0 to 1 a sample.
    """
    tasks = list(_tasks(folder))
    if not tasks:
        raise EvaluationError(
            "lmms-eval left no log of samples (*_samples_TASK.jsonl): it failed, or --log_samples is missing"
        )
    ids, names, scores, predictions, images, warnings = [], [], [], [], [], []
    metrics: dict[str, str] = {}
    for task in tasks:
        metrics[task.name], own = _scores(task)
        warnings += _warnings(task, metrics[task.name], own)
        scores += own
        for row in task.rows:
            ids.append(f"{task.name}/{row['doc_id']}")
            names.append(task.name)
            predictions.append(_text(row.get("filtered_resps", "")))
            images.append([(task.name, image) for image in row.get("input_media", [])])
    return ids, Evaluation.of_scores(
        names,
        scores,
        images,
        metrics=metrics,
        max_new_tokens=None,
        longer=None,
        predictions=predictions,
        cut=[False] * len(scores),
        warnings=warnings,
    )


def _tasks(folder: Path) -> Iterator[_Task]:
    """Every task of which there is a log, by name; raises EvaluationError for one that was run and has none."""
    own: dict[str, dict] = {}
    for file in sorted(folder.rglob("*_results.json")):
        for part, figures in _parsed(file, file.read_text(), "results").items():
            if isinstance(figures, dict):
                own.setdefault(part, {}).update(figures)
    logs = {file.stem.partition("_samples_")[2]: file for file in sorted(folder.rglob("*_samples_*.jsonl"))}
    if logs and (missing := sorted(own.get("configs", {}).keys() - logs)):
        raise EvaluationError(f"lmms-eval left no log of the samples of {', '.join(missing)}, which it ran")
    for name, file in sorted(logs.items()):
        rows: dict[object, dict] = {}
        for line in filter(str.strip, file.open()):
            row = _parsed(file, line, "doc_id")
            rows.setdefault(row["doc_id"], row)  # a task with several filters has a line for each: the first counts
        if rows:
            figures, better = (own.get(part, {}).get(name, {}) for part in ("results", "higher_is_better"))
            size = own.get("n-samples", {}).get(name, {}).get("effective", len(rows))
            lower = {metric for metric, higher in better.items() if higher is False}
            yield _Task(name, [rows[key] for key in sorted(rows)], figures, lower, size)


def _parsed(file: Path, text: str, has: str) -> dict:
    """One object of a file; raises EvaluationError where it is none, or has no such entry."""
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and has in found:
            return found
    raise EvaluationError(f"{file} is not what lmms-eval writes: no object with `{has}` in {text!r:.80}")


def _scores(task: _Task) -> tuple[str, list[float]]:
    """The name of a task's metric, and each sample's score by it, from 0 to 1.

    A metric that is a number counts before one that holds a score, and this before one that holds what was said and
    what is right; that one has to come to the task's own figure, for many tasks compare in ways of their own. Of two
    alike, the first that all samples have counts; else each sample's first.
    """
    shared = [name for name in task.rows[0] if name not in ABOUT and all(name in row for row in task.rows)]
    for find in (_number, _score_within, _verdict):
        for names in ([name] for name in shared):
            found = _found(task, find, names)
            if found and (find is not _verdict or _agrees(task, *found)):
                return found
        if find is not _verdict and (found := _found(task, find)):
            return found
    held = {name: value for row in task.rows for name, value in row.items() if name not in ABOUT}
    told = "; ".join(
        f"{name}: {', '.join(value) if isinstance(value, dict) else f'{value!r:.40}'}" for name, value in held.items()
    )
    raise EvaluationError(
        f"the log of {task.name} has no number from 0 to 1 for each sample, nor an answer and a prediction that come "
        f"to the task's own figure when compared; it has {told or 'no metric'}. Leave it out of evaluate.suite_tasks"
    )


def _found(
    task: _Task, find: Callable[[object], float | None], names: Sequence[str] | None = None
) -> tuple[str, list[float]] | None:
    """The first of some metrics (None: all) that gives a score, sample by sample; None where a sample has none."""
    used, scores = [], []
    for row in task.rows:
        own = [name for name in names or row if name not in ABOUT | task.lower]
        found = next(((name, score) for name in own if (score := find(row[name])) is not None), None)
        if not found:
            return None
        used.append(found[0])
        scores.append(found[1])
    return " / ".join(dict.fromkeys(used)), scores


def _number(value: object) -> float | None:
    """A number from 0 to 1; a numpy one is logged as its text."""
    if isinstance(value, str):
        value = {"True": 1.0, "False": 0.0}.get(value, value)
    with suppress(TypeError, ValueError):
        number = float(value)
        return number if 0 <= number <= 1 else None


def _score_within(value: object) -> float | None:
    """The score that a dict has under a usual name."""
    if isinstance(value, dict):
        return next((score for name in SCORES if (score := _number(value.get(name))) is not None), None)


def _verdict(value: object) -> float | None:
    """Whether the dict of a metric has as said what it has as right; None for anything else."""
    said, right = ([name for name in names if isinstance(value, dict) and name in value] for names in (SAID, RIGHT))
    if not said or not right:
        return None
    as_open = value.get("question_type") == "open"
    return float((_holds if as_open else _equal)(value[said[0]], value[right[0]]))


def _equal(said: object, right: object) -> bool:
    """Whether any of what was said is any of what is right, but for case and spaces."""
    if isinstance(said, list):
        return any(_equal(one, right) for one in said)
    if isinstance(right, list):
        return any(_equal(said, one) for one in right)
    return str(said).strip().lower() == str(right).strip().lower()


def _holds(said: object, right: object) -> bool:
    """MMMU's rule for open questions: a number is said, or a text stands in one that is.

    github.com/MMMU-Benchmark/MMMU, eval/eval_utils.py, eval_open: numbers to two places; a letter with a space beside.
    """
    if isinstance(said, list):
        return any(_holds(one, right) for one in said)
    if isinstance(right, list):
        return any(_holds(said, one) for one in right)
    text = str(right).strip().lower()
    with suppress(ValueError):
        return said == round(float(text.replace(",", "")), 2)
    return isinstance(said, str) and any(
        one in said for one in ([f" {text}", f"{text} "] if len(text) == 1 else [text])
    )


def _figures(task: _Task, metric: str) -> list[float]:
    """A task's own figures of a metric, one a filter."""
    return [
        value for name, value in task.own.items() if name.startswith(f"{metric},") and isinstance(value, int | float)
    ]


def _agrees(task: _Task, metric: str, scores: Sequence[float]) -> bool:
    """Whether the mean of the scores is the task's own figure, as a share or in percent."""
    mean = fmean(scores)
    return any(abs(mean - value / unit) <= SAME for value in _figures(task, metric) for unit in (1, 100))


def _warnings(task: _Task, metric: str, scores: Sequence[float]) -> list[str]:
    told = []
    if len(task.rows) < task.size:
        told.append(f"{task.name}: lmms-eval logged {len(task.rows):,} of {task.size:,} samples")
    own = _figures(task, metric)
    if not own or not _agrees(task, metric, scores):
        says = f"lmms-eval's own figure is {own[0]:.4g}" if own else "lmms-eval gives no one figure of it"
        told.append(f"{task.name}: the mean of the samples' {metric} is {fmean(scores):.1%}, and {says}")
    if max(scores) == 0:
        first = _text(task.rows[0].get("filtered_resps", ""))
        told.append(f"{task.name}: every one of {len(scores):,} answers scores 0 %, such as {first!r:.80}")
    return told


def _text(said: object) -> str:
    """What was said, as one text: lists of several, as of choices with their likelihoods, as JSON."""
    if isinstance(said, list) and len(said) == 1:
        return _text(said[0])
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
