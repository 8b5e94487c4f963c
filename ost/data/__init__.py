"""The data contract: what a sample is, and the shards that hold samples on disk."""

from ost.data.dataset import Dataset, Joined, Samples
from ost.data.masked import Masked, with_masks
from ost.data.sample import Sample, chat, content_digest, sample_id
from ost.data.shards import FEATURES, Facts, ShardWriter, write_samples

__all__ = [
    "FEATURES",
    "Dataset",
    "Facts",
    "Joined",
    "Masked",
    "Sample",
    "Samples",
    "ShardWriter",
    "chat",
    "content_digest",
    "sample_id",
    "with_masks",
    "write_samples",
]
