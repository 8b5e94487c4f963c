"""Arithmetic that is the same from run to run."""

import os

import torch
import transformers


def make_reproducible(threads: int) -> None:
    """Make this process quiet, and its arithmetic the same from run to run at the same number of CPU threads."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(torch.cuda.is_available())
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
