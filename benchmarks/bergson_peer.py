"""The peer of the scoring benchmark: `bergson` (EleutherAI), scoring the same pool against the same anchor gradient.

Its own pipeline reads text alone, so its collector and scorer are driven here over our batches: its hooks form the
per-sample gradients of linear layers and multiply them with the query gradient as the backward pass goes by
(unprojected, unnormalised, fp32). It takes activations of the form (sample, position, feature), so of a vision-language
model it covers the decoder's linear layers and the head, not the vision tower, norms or embeddings: it is asked for
less than `transposed` and `gradient` are. As in its own pipeline, no weight takes a gradient, and the input embedding
starts the backward pass.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from bergson.collector.gradient_collectors import GradientCollector
from bergson.score.scorer import Scorer as BergsonScorer
from torch import Tensor, nn

from ost.data import Sample
from ost.encoding import Batch
from ost.scoring.methods.scorer import BatchScores, Scorer
from ost.scoring.passes.weights import language_modules


class BergsonPeer(Scorer):
    """Utilities ⟨∇ℓ(z), ∇L_V⟩ over the decoder's linear layers, by bergson's hooks."""

    def prepare(self, store: Path | None = None) -> None:
        """The anchors' gradient as bergson's query, and its collector with a streaming scorer."""
        model, language = self.proxy.model, language_modules(self.proxy.model)
        self.covered = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and module in language
        }
        self._found: dict[str, Tensor] = {}
        query = self._query()
        self._open()
        scorer = BergsonScorer(query, list(query), self._write, model.device, torch.float32)
        settings = SimpleNamespace(attribute_tokens=False)
        self._collector = GradientCollector(
            model=model, target_modules=set(self.covered), data=range(10**6), cfg=settings, scorer=scorer
        )

    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """A forward and a backward pass with bergson's hooks on."""
        indices = list(range(len(samples)))
        with self._collector.with_batch(batch["attention_mask"].bool()):
            losses, tokens = self.losses(batch)
            losses.sum().backward()
            self.proxy.model.get_input_embeddings().weight.grad = None
            self._collector.process_batch(indices, losses=losses)
        utility = self._found["scores"].double().expand(-1, len(self.partition.members))
        return self.batch_scores(utility, losses.detach(), tokens, batch)

    def _query(self) -> dict[str, Tensor]:
        """Gradient of the anchors' mean loss for each covered layer alone, (1, weights); autograd's own."""
        total = {path: torch.zeros_like(module.weight) for path, module in self.covered.items()}
        for own in self.anchor_batches():
            steps = _layer_gradients(self, own)
            for path, gradient in steps.items():
                total[path] += gradient / len(self.anchors)
        return {path: gradient.flatten()[None] for path, gradient in total.items()}

    def _open(self) -> None:
        model = self.proxy.model
        model.requires_grad_(False)
        model.get_input_embeddings().requires_grad_(True)

    def _write(self, indices: list[int], scores: Tensor, query_offset: int = 0) -> None:
        self._found["scores"] = scores


def _layer_gradients(peer: BergsonPeer, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Gradient of the samples' summed loss for each covered layer: what its output's gradient and input make."""
    found: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def listen(path: str):
        def hear(module: nn.Module, args: tuple, output: Tensor) -> None:
            inputs[path] = args[0].detach().flatten(0, -2)
            output.register_hook(lambda delta: found.update({path: delta.flatten(0, -2).T @ inputs[path]}))

        return hear

    handles = [module.register_forward_hook(listen(path)) for path, module in peer.covered.items()]
    peer.losses(peer.encode(samples))[0].sum().backward()
    peer.proxy.model.zero_grad(set_to_none=True)
    for handle in handles:
        handle.remove()
    return found
