"""DEITA, a rival: complexity times quality by a language model, and a diversity filter (ost/baselines/deita.py)."""

import numpy as np
import pyarrow as pa

from ost.arms.arm import CUT, Arm, Material, Scores, ScoreTable, ranked
from ost.cost import Cost, Stopwatch
from ost.selection import diverse, selection_table, size_of
from ost.settings import Settings
from ost.store import lists, matrix

REPETITION = "its embedding is like a kept sample's"


def score(material: Material) -> ScoreTable:
    """Complexity times quality by a language model, and embeddings for the diversity filter."""
    from ost.baselines.deita import load_embedder, load_rater, rate
    from ost.models import resolve_device

    watch, settings = Stopwatch(), material.params.deita
    pool, device = material.samples("pool"), resolve_device(material.device)
    found = rate(pool, load_rater(settings.rater, device), load_embedder(settings.embedder, device), material.progress)
    columns = {name: getattr(found, name) for name in ("score", "complexity", "quality")}
    embedding = lists(found.embeddings.astype(np.float16))
    table = pa.table({"id": pool.ids(), **columns, "embedding": embedding})
    means = {name: float(np.mean(columns[name])) for name in ("complexity", "quality")}
    return ScoreTable(table, means, Cost(watch.seconds, found.flops))


def choose(table: pa.Table, fraction: float, settings: Settings) -> pa.Table:
    """The highest scores, passing over what is like a kept sample."""
    order = ranked(table)
    ids, embeddings = order["id"].to_pylist(), matrix(order, "embedding").astype(np.float32)
    kept = diverse(embeddings, size_of(table, fraction), settings.deita.threshold)
    passed = dict.fromkeys(ids[: max(kept, default=-1) + 1], REPETITION)
    return selection_table(table["id"].to_pylist(), [ids[index] for index in kept], CUT, passed)


DEITA = Scores("deita", score, ("pool", "deita.rater", "deita.embedder"), ("deita.rater", "deita.embedder"))

ARMS = (Arm("deita", "DEITA {share}", choose, DEITA, place=40, settings=("deita.threshold",)),)
