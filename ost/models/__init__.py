"""Models: tiny builders, checkpoints, adapters, processors, families."""

from ost.models.adapter import add_adapter
from ost.models.checkpoint import (
    Checkpoint,
    check_pair,
    checkpoint_folders,
    family,
    load_checkpoint,
    load_config,
    resolve_device,
)

__all__ = [
    "Checkpoint",
    "add_adapter",
    "check_pair",
    "checkpoint_folders",
    "family",
    "load_checkpoint",
    "load_config",
    "resolve_device",
]
