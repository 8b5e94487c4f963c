"""The blocks of a model's decoder through torch.compile, where that is faster and gives the same."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ost.models.parts import decoder_blocks
from ost.settings import Execution

WORTH = 20_000
"""Samples of a pool from which on compiling, which takes about half a minute, is made up for."""
TOLERANCE = 0.03
"""Largest difference of a loss, as a share of it: compiled blocks round to bf16 in other places."""
RUNS = 3
"""Passes that are timed; the best counts."""


def decided(execution: Execution, device: torch.device, pool_size: int) -> Execution:
    """The settings with `always` or `never` for `auto`, which means an accelerator and a large pool."""
    large = device.type != "cpu" and pool_size >= WORTH
    told = execution.compile if execution.compile != "auto" else "always" if large else "never"
    return execution.model_copy(update={"compile": told})


@torch.no_grad()
def compile_blocks(models: Sequence[PreTrainedModel], run: Callable[[], Tensor]) -> str | None:
    """Compile the decoders' blocks of some models in place; returns why they were left as they were, if they were.

    `run` gives losses (n,) by a pass through each model. Hooks on a block stay outside of what is compiled.
    """
    blocks = [block for model in models for block in decoder_blocks(model) or ()]
    expected, plain = _timed(run)
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)
    try:
        found, fast = _timed(run)
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # of a compiler that is not there, or blocks that it has no way with
        reason = f"torch.compile fails: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
    else:
        if not torch.allclose(found, expected, rtol=TOLERANCE, atol=0.0):
            reason = "compiled blocks give other losses"
        elif fast >= plain:
            reason = "compiled blocks are no faster"
        else:
            return None
    for block in blocks:
        del block.forward
    return reason


def _timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What a pass gives, and the seconds that it takes once it is under way."""
    found, seconds = run().cpu(), []
    for _ in range(RUNS):
        start = time.perf_counter()
        run().cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return found, min(seconds)
