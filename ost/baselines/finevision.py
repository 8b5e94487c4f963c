"""FineVision's ratings (Wiedmann et al. 2025, arXiv:2510.17269), which come with its samples.

There, models rated every turn from 1 to 5 on four axes, and a sample is as good as its worst turn. The paper keeps what
reaches a threshold on one axis, and finds that no such cut serves a model better than all of the data does. Here all
four count, and a share is kept in place of a threshold: a sample ranks by its lowest axis, which is the highest
threshold that it reaches on every one of them, and among equals by the mean of its axes.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.errors import DataError
from ost.formats.fields import RATINGS as AXES

LOWEST, HIGHEST = 1.0, 5.0
"""The scale; what stands outside it, such as the 0 that some give for none, is no rating."""


def rated(pool: pa.Table) -> pa.Table:
    """The ratings of N samples, as a pool's columns `id` and `ratings` hold them: a row `id, *AXES, least, mean` each.

    NaN where a sample was not rated; `least` and `mean` are over the axes that it was rated on. Raises DataError where
    none of them was.
    """
    column = pool["ratings"].combine_chunks()
    names, values = column.flatten().flatten()
    rows, values = pc.list_parent_indices(column).to_numpy(), values.to_numpy(zero_copy_only=False)
    found = np.full((len(pool), len(AXES)), np.nan)
    for place, axis in enumerate(AXES):
        own = pc.equal(names, axis).to_numpy(zero_copy_only=False) & (values >= LOWEST) & (values <= HIGHEST)
        found[rows[own], place] = values[own]
    known = np.isfinite(found)
    count = known.sum(axis=1)
    if not count.any():
        raise DataError(
            f"the arm `rated` chooses by FineVision's ratings, and none of the {len(pool):,} samples of the pool came "
            f"with one: give a pool with columns such as {AXES[0]}_ratings or {AXES[0]}_min, or leave the arm out of "
            "compare.arms"
        )
    least = np.where(count > 0, np.where(known, found, np.inf).min(axis=1), np.nan)
    mean = np.where(known, found, 0.0).sum(axis=1) / np.where(count > 0, count, np.nan)
    axes = {axis: found[:, place].astype(np.float32) for place, axis in enumerate(AXES)}
    return pa.table({"id": pool["id"], **axes, "least": least, "mean": mean})
