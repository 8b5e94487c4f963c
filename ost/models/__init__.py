"""Models: tiny builders, checkpoints, processors, families."""

from ost.models.checkpoint import Checkpoint, check_pair, family, load_checkpoint, load_config, resolve_device

__all__ = ["Checkpoint", "check_pair", "family", "load_checkpoint", "load_config", "resolve_device"]
