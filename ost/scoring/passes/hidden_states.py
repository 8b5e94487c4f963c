"""The mean last hidden state of a sample's tokens before its answer, which breadth is judged by.

What comes before the answer is untouched by errors in it. States of whole samples set wrong answers apart as unusual,
and a choice for breadth would take them first.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.encoding import IGNORE, Batch
from ost.models.parts import text_decoder


class HiddenStates:
    """Records mean hidden states during a model's passes; those of more than `size` numbers are projected to that many.

    The projection's signs depend on the two sizes alone, so states of two machines, or of two runs, can be compared.
    """

    def __init__(self, size: int):
        """`size`: 0 to record none."""
        self.size = size
        self._signs: Tensor | None = None

    @contextlib.contextmanager
    def recorded(self, model: PreTrainedModel, batch: Batch) -> Iterator[list[Tensor]]:
        """A list that the first pass within the block puts the samples' states (B, `size`) into."""
        found: list[Tensor] = []
        if not self.size:
            yield found
            return
        mask = (batch["attention_mask"].bool() & (batch["labels"] == IGNORE)).float()

        def hook(module: nn.Module, args: tuple, output) -> None:
            if not found:
                with torch.autocast(mask.device.type, enabled=False):  # a mean of many states, whatever they are in
                    states = torch.einsum("bt,btd->bd", mask, output[0].detach().float())
                    found.append(self._projected(states / mask.sum(dim=1, keepdim=True)))

        handle = text_decoder(model).register_forward_hook(hook)
        try:
            yield found
        finally:
            handle.remove()

    def _projected(self, states: Tensor) -> Tensor:
        width = states.shape[1]
        if width <= self.size:
            return states
        if self._signs is None:
            self._signs = random_signs(width, self.size, seed=width).to(states.device)
        return states @ self._signs


def random_signs(rows: int, columns: int, seed: int) -> Tensor:
    """A projection (rows, columns) that keeps inner products in expectation: ±1 / √columns, the same for a seed."""
    bits = torch.randint(0, 2, (rows, columns), generator=torch.Generator().manual_seed(seed))
    return ((2 * bits - 1) / math.sqrt(columns)).float()
