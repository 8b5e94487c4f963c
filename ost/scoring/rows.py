"""What scoring leaves of each sample before the anchors are summed up: the rows that shards are made of."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ost.data import Sample
from ost.scoring.scorer import Chunk, Scorer
from ost.store import lists


def rows_of(scorer: Scorer, samples: Sequence[Sample], advance: Callable[[int], None] = lambda done: None) -> pa.Table:
    """Score samples: `id, task, by_cell, loss, tokens, length` and, if asked for, `sketch`, a row a sample in order.

    `by_cell` holds the D utilities for the scorer's anchor cells. `advance` is told how many samples are done.
    """
    order: list[int] = []
    chunks: list[Chunk] = []
    for indices, chunk in scorer.score(samples):
        order += indices
        chunks.append(chunk)
        advance(len(order))
    back = np.argsort(order)

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name).numpy() for chunk in chunks])[back]

    columns = {
        "id": pa.array([sample.id for sample in samples]),
        "task": pa.array([sample.task for sample in samples]),
        "by_cell": lists(column("utility")),
        "loss": pa.array(column("loss")),
        "tokens": pa.array(column("tokens").astype(np.int32)),
        "length": pa.array(column("length").astype(np.int32)),
    }
    if scorer.settings.sketches:
        columns["sketch"] = lists(column("sketch").astype(np.float16))
    return pa.table(columns)
