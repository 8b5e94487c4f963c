"""What a sample asks of the proxy: its mean last hidden state before the answer, which breadth is judged by.

What comes before the answer is untouched by errors in it. States of whole samples set wrong answers apart as unusual,
and a choice for breadth would take them first.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ost.encoding import IGNORE, Batch
from ost.scoring.sketch import random_signs


class States:
    """Listens to a model's passes. States of more than `size` numbers are projected at random to that many.

    The projection's signs depend on the two sizes alone, so states of two machines, or of two runs, can be compared.
    """

    def __init__(self, size: int):
        self.size = size
        self._signs: Tensor | None = None

    @contextlib.contextmanager
    def heard(self, model: PreTrainedModel, batch: Batch) -> Iterator[list[Tensor]]:
        """Holds the (B, `size`) states of the samples after a pass within the block."""
        found: list[Tensor] = []
        mask = (batch["attention_mask"].bool() & (batch["labels"] == IGNORE)).float()

        def hook(module: nn.Module, args: tuple, output) -> None:
            states = torch.einsum("bt,btd->bd", mask, output[0].detach().float()) / mask.sum(dim=1, keepdim=True)
            found.append(self._shortened(states))

        handle = model.get_decoder().register_forward_hook(hook)
        try:
            yield found
        finally:
            handle.remove()

    def _shortened(self, states: Tensor) -> Tensor:
        if states.shape[1] <= self.size:
            return states
        if self._signs is None:
            self._signs = random_signs(states.shape[1], self.size, states.shape[1]).to(states.device)
        return states @ self._signs
