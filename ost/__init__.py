"""OST: choose the training samples that are worth training on, and name those that do harm.

    import ost

    proxy = ost.load_checkpoint("models/proxy-warm")
    pool, anchors = (list(ost.read_samples(f"data/{name}.parquet")) for name in ("pool", "anchors"))
    scored = ost.score(pool, anchors, proxy)
    kept = ost.kept_ids(ost.select(scored.table, fraction=0.2))

A library of torch, transformers and datasets alone; flows, versions and records are built around it elsewhere.
"""

from ost.data import Sample, chat, read_samples, write_samples
from ost.errors import OSTError
from ost.ingestion import ingest
from ost.models import Checkpoint, load_checkpoint
from ost.scoring import Scored, read_scores, score
from ost.selection import kept_ids, select, toxic_list

__all__ = [
    "Checkpoint",
    "OSTError",
    "Sample",
    "Scored",
    "chat",
    "ingest",
    "kept_ids",
    "load_checkpoint",
    "read_samples",
    "read_scores",
    "score",
    "select",
    "toxic_list",
    "write_samples",
]
