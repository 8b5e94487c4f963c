"""The table of a scored workspace's anchors: their states, and how each fared by the training on the others."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ost.anchors.states import states_of
from ost.data import Sample
from ost.models import Checkpoint
from ost.scoring.methods.anchor_training import Plan
from ost.scoring.swapped import are_swapped
from ost.settings import Execution
from ost.store import lists


def anchor_table(
    anchors: Sequence[Sample], proxy: Checkpoint, plan: Plan | None, size: int, execution: Execution | None = None
) -> pa.Table:
    """A row an anchor, in their order: `id`, `task`, and what is known of it.

    - `loss` by the warm proxy, and `left_out` after the steps on the anchors outside its fold, in nats; `swapped`: the
      latter of the same question with another anchor's answer, null where there is none. With a `plan` alone.
    - `sketch`, as the pool's scores have it, where `size` is above 0.
    """
    columns: dict[str, object] = {"id": [one.id for one in anchors], "task": [one.task for one in anchors]}
    if plan:
        swapped = pa.array(np.array(plan.swapped_after), mask=~are_swapped(anchors))
        columns |= {"loss": list(plan.before), "left_out": list(plan.after), "swapped": swapped}
    if size:
        columns["sketch"] = lists(states_of(anchors, proxy, size, execution))
    return pa.table(columns)
