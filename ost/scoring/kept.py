"""What a store keeps for later runs, with the seconds that it took. What is torn counts as none, and is made anew.

Files appear whole or not at all, but a machine that loses its power, or a bad disk, may tear one all the same.
"""

import json
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ost.store import publish, read_json, read_table

SECONDS = "seconds"
"""Key of the seconds in the metadata of a file of weights."""


def kept_json(path: Path | None) -> dict | None:
    """The value of a JSON file; None where there is none."""
    try:
        return read_json(path) if path else None
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def kept_table(path: Path | None) -> pa.Table | None:
    """The table of a Parquet file, all of it read; None where there is none."""
    try:
        return read_table(path) if path else None
    except (FileNotFoundError, pa.ArrowException):
        return None
    except OSError as error:
        if error.errno is not None:  # the system's own word; Arrow's, of a file that is torn, has no number
            raise
        return None


def kept_weights(path: Path | None) -> dict[str, Tensor] | None:
    """The weights of a safetensors file, by name; None where there is none."""
    try:
        return load_file(path) if path else None
    except (FileNotFoundError, SafetensorError):
        return None


def keep_weights(path: Path, weights: dict[str, Tensor], seconds: float) -> None:
    """Publish weights as safetensors, with the seconds that they took."""
    with publish(path) as part:
        part.write_bytes(save(weights, {SECONDS: repr(seconds)}))


def seconds_of_weights(path: Path) -> float:
    """The seconds that a file of weights took; 0 where there is none."""
    try:
        with safe_open(path, "pt") as file:
            return float(file.metadata()[SECONDS])
    except (FileNotFoundError, SafetensorError):
        return 0.0
