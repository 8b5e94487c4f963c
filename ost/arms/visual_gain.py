"""VisNec, a rival: what a sample's image takes off its loss, best within clusters (ost/baselines/visual_gain.py)."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.arms.arm import Arm, Material, Scores, ScoreTable, ranked
from ost.selection import selection_table, size_of
from ost.selection.clusters import clusters
from ost.selection.strategies import divide
from ost.settings import Settings
from ost.store import lists

STATES = 256
"""Numbers by which samples are told apart for their clusters, as `score.sketch` has them."""
CUT, UNSEEN = "visual gain below the cut of its cluster", "it has no image"


def score(material: Material) -> ScoreTable:
    """What images take off the warm proxy's losses, and the hidden states that clusters are found by."""
    from ost.baselines.visual_gain import visual_gain

    pool, proxy = material.samples("pool"), material.model("proxy-warm")
    found = visual_gain(pool, proxy, material.execution, material.progress, states=STATES)
    columns = {"score": found.column, "sketch": lists(found.states.astype(np.float16))}
    warnings = []
    if not found.seen.all():
        warnings = [f"{(~found.seen).sum():,} of {len(pool):,} samples have no image; `visual-gain` keeps none of them"]
    return ScoreTable(pa.table({"id": pool.ids(), **columns}), found.figures, found.cost, warnings)


def choose(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """The highest gains within each cluster, as many as its share of the samples that have one, best first."""
    known, size = ranked(table), size_of(table, fraction)
    _, cluster, counts = np.unique(_clusters(known, settings.seed), return_inverse=True, return_counts=True)
    quotas = divide(min(size, len(known)), counts)
    kept = [place for own, quota in enumerate(quotas) for place in np.flatnonzero(cluster == own)[:quota]]
    unseen = table.filter(pc.is_null(table["score"]))["id"].to_pylist()
    ids = known["id"].take(np.sort(kept)).to_pylist()
    return selection_table(table["id"].to_pylist(), ids, CUT, dict.fromkeys(unseen, UNSEEN))


def _clusters(known: pa.Table, seed: int) -> np.ndarray:
    """The cluster of each sample (n,), found in the order of their ids, so that the pool's order plays no part."""
    order = np.argsort(np.array(known["id"].to_pylist()))
    found = np.zeros(len(known), dtype=int)
    labels = clusters(known.take(order), seed)
    if labels is not None:
        found[order] = labels
    return found


READS = ("pool", "proxy", "proxy-warm")
VISUAL_GAIN = Scores("visual-gain", score, READS)

ARMS = (Arm("visual-gain", "VisNec {share}", choose, VISUAL_GAIN, place=41, colour="violet"),)
