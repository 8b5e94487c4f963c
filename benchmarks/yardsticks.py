"""What scoring on an accelerator is held against: a lean forward pass, and the peer bergson, both given their inputs.

Neither uses the library's own passes: hidden states of answer rows alone go through the head, in chunks, with fp32 loss
and fp64 sums.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3VLForConditionalGeneration

from ost.encoding import IGNORE, Batch

CHUNK = 4096
"""Rows whose logits are computed at a time."""


def flat_losses(model: Qwen3VLForConditionalGeneration, batch: Batch) -> Tensor:
    """Each sample's mean answer loss, (B,) float64."""
    labels = batch["labels"][:, 1:]
    learned = labels != IGNORE
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    rows = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1][learned]
    parts = zip(rows.split(CHUNK), labels[learned].split(CHUNK), strict=True)
    found = torch.cat([cross_entropy(model.lm_head(own).float(), targets, reduction="none") for own, targets in parts])
    sums = torch.zeros(len(labels), dtype=torch.float64, device=found.device)
    return sums.index_add(0, learned.nonzero()[:, 0], found.double()) / learned.sum(dim=1)


class BergsonHooks:
    """Utilities over the last block's linear layers, by bergson's collector and scorer (unprojected, unnormalised).

    As in its own pipeline no weight takes a gradient, and the input embedding starts the backward pass. The head, which
    it leaves out by default too, is not covered: it is asked for less than `lookahead` with last:1 is.
    """

    def __init__(self, model: Qwen3VLForConditionalGeneration, anchors: Sequence[Batch]):
        from bergson.collector.gradient_collectors import GradientCollector
        from bergson.score.scorer import Scorer

        self.model = model.requires_grad_(False)
        last = f"language_model.layers.{len(model.model.language_model.layers) - 1}."
        self.covered = {
            path: module
            for path, module in model.named_modules()
            if last in f"{path}." and isinstance(module, nn.Linear)
        }
        query = self._query(anchors)
        model.get_input_embeddings().requires_grad_(True)
        scorer = Scorer(query, list(query), self._write, model.device, model.dtype)
        self._collector = GradientCollector(
            model=model,
            target_modules=set(self.covered),
            data=range(10**6),
            cfg=SimpleNamespace(attribute_tokens=False),
            scorer=scorer,
        )

    def score(self, batch: Batch) -> Tensor:
        """(B, 1) products of the samples' gradients with the anchors'."""
        with self._collector.with_batch(batch["attention_mask"].bool()):
            losses = flat_losses(self.model, batch)
            losses.sum().backward()
            self.model.get_input_embeddings().weight.grad = None
            self._collector.process_batch(list(range(len(losses))), losses=losses.detach())
        return self._found

    def _query(self, anchors: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradient of the anchors' summed loss for each covered layer, (1, weights)."""
        weights = {path: module.weight.requires_grad_(True) for path, module in self.covered.items()}
        total = {path: torch.zeros_like(weight) for path, weight in weights.items()}
        for batch in anchors:
            found = torch.autograd.grad(flat_losses(self.model, batch).sum(), list(weights.values()))
            for path, gradient in zip(weights, found, strict=True):
                total[path] += gradient
        self.model.requires_grad_(False)
        return {path: gradient.flatten()[None] for path, gradient in total.items()}

    def _write(self, indices: list[int], scores: Tensor, query_offset: int = 0) -> None:
        self._found = scores
