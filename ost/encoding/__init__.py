"""Samples as model inputs: the template's own rendering, the processor's own tokens, labels on every learned answer."""

from ost.encoding.encoder import Encoder, to_device
from ost.encoding.measure import Measured
from ost.encoding.processing import IGNORE, Batch

__all__ = ["IGNORE", "Batch", "Encoder", "Measured", "to_device"]
