"""The pool's questions that are worth an answer, without the answers that the pool has."""

import itertools
from collections.abc import Iterable, Iterator

import pyarrow as pa

from ost.anchors.coverage import suggested
from ost.anchors.sheet import question_of
from ost.data import Dataset, Sample

READ = 64
"""Samples that are read at once."""


def suggestions(scores: pa.Table, anchors: pa.Table, pool: Dataset, known: Iterable[Sample]) -> Iterator[Sample]:
    """Questions of a scored pool, each once, the one whose answer is worth most first; see `suggested`.

    `anchors`: the table that scoring leaves of them; `known`: the anchors themselves, whose questions are not asked
    again. Raises DataError as `suggested` does, and where a scored sample is not in the pool.
    """
    asked = {question_of(anchor).id for anchor in known}
    ids, rows = scores["id"], suggested(scores, anchors)
    while some := [ids[row].as_py() for row in itertools.islice(rows, READ)]:
        for sample in pool.take(some):
            question = question_of(sample)
            if question.id not in asked:
                asked.add(question.id)
                yield question
