"""Models: checkpoints, adapters, processors, families."""

from ost.models.adapter import add_adapter, freeze_but_language
from ost.models.checkpoint import Checkpoint, checkpoint_folders, in_float64, load_checkpoint, resolve_device
from ost.models.configs import check_pair, commit_of, family, load_config, reads_images
from ost.models.processor import load_processor
from ost.models.resolution import limit_image_tokens

__all__ = [
    "Checkpoint",
    "add_adapter",
    "check_pair",
    "checkpoint_folders",
    "commit_of",
    "family",
    "freeze_but_language",
    "in_float64",
    "limit_image_tokens",
    "load_checkpoint",
    "load_config",
    "load_processor",
    "reads_images",
    "resolve_device",
]
