"""OST: choose the training samples that are worth training on, and name those that do harm.

    import ost

    proxy = ost.load_checkpoint("models/proxy-warm", base="models/proxy")
    pool, anchors = (ost.Dataset(f"data/{name}") for name in ("pool", "anchors"))
    scored = ost.score(pool, anchors, proxy)
    kept = ost.kept_ids(ost.select(scored.table, fraction=0.2))

A library of torch, transformers and datasets alone; flows, versions and records are built around it elsewhere.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ost.data import Dataset, Sample, chat, write_samples
    from ost.errors import OSTError
    from ost.ingestion import ingest
    from ost.models import Checkpoint, load_checkpoint
    from ost.scoring import Scored, read_scores, score
    from ost.selection import kept_ids, select, toxic_list

__all__ = [
    "Checkpoint",
    "Dataset",
    "OSTError",
    "Sample",
    "Scored",
    "chat",
    "ingest",
    "kept_ids",
    "load_checkpoint",
    "read_scores",
    "score",
    "select",
    "toxic_list",
    "write_samples",
]

_ROOMS = {
    "ost.data": ("Dataset", "Sample", "chat", "write_samples"),
    "ost.errors": ("OSTError",),
    "ost.ingestion": ("ingest",),
    "ost.models": ("Checkpoint", "load_checkpoint"),
    "ost.scoring": ("Scored", "read_scores", "score"),
    "ost.selection": ("kept_ids", "select", "toxic_list"),
}


def __getattr__(name: str) -> Any:
    """A public name, from its room at first use: torch and transformers take seconds, and load what they find."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(room), name)
    raise AttributeError(f"module 'ost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
