"""`lookahead`: many steps on the anchors instead of one, and each pool sample's own loss before and after."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedModel

from ost.config import Score
from ost.data import Sample
from ost.encoding import Batch
from ost.models import Checkpoint
from ost.scoring.scorer import Chunk
from ost.scoring.sharing import Memory
from ost.scoring.two_pass import TwoPassScorer
from ost.scoring.walk import Walk, draw_up, others, start_of
from ost.scoring.weights import moved_copy
from ost.store import publish


class LookaheadScorer(TwoPassScorer):
    """Loss, in nats, that a sample loses while the proxy takes k optimizer steps on the anchors.

    The many-step form of `transposed`: with one short step of plain gradient descent the two rank alike. With detail
    `total` one walk on all anchors; with `folds` a walk for each fold, on the others: their mean is the utility, and
    their disagreement its standard error. k is `score.lookahead.steps`, or, where that is null, the number of steps at
    which anchors that were left out have the lowest loss. Two passes a sample, the second through what moves alone.

    The walk starts from the base that the proxy was warmed up from, where that is known (`score.lookahead.start`): the
    errors that the warm-up learned from the pool are then in the first loss alone, and count in full.

    Neighbours: CoLoR-Filter (arXiv:2406.10670) takes the same difference between a prior and that prior fine-tuned on
    the target data, to the end of a schedule; RHO-LOSS (arXiv:2206.07137) that between the model in training and one
    trained on holdout data alone, as a walk from the base is. Here the walk is as long as it helps what it has not
    seen, and the difference may be taken relative to the sample's own loss, so that what the proxy cannot do yet does
    not rank by its sheer loss.
    """

    def __init__(
        self,
        proxy: Checkpoint,
        anchors: Sequence[Sample],
        settings: Score,
        bf16: bool = False,
        walked: bool = True,
        store: Path | None = None,
    ):
        """`walked`: false for a scorer that stays where the proxy is, for a plan of the walk. `store`: a file that the
        walks' ends are kept in, so that a few new samples don't cost a walk."""
        self._walked, self._store = walked, store
        super().__init__(proxy, anchors, settings, bf16)

    def preconditioner(self) -> None:
        """None: the walk has an optimizer of its own."""

    def prepare(self) -> None:
        """Walk."""
        if not self._walked:
            return
        if self._store and self._store.exists():
            self.ends = self._load(self._store)
            return
        steps, start = self.settings.lookahead.steps or draw_up(self).steps, start_of(self)
        self.ends = [Walk(self, members, start).go(steps).model for members in others(self.cells.members)]
        if self._store:
            self._save(self._store)

    def _save(self, path: Path) -> None:
        weights = {
            f"{index}.{name}": end.get_parameter(name).detach().cpu().contiguous()
            for index, end in enumerate(self.ends)
            for name in self.weights
        }
        with publish(path) as part:
            part.write_bytes(save(weights))

    @torch.no_grad()
    def _load(self, path: Path) -> list[PreTrainedModel]:
        ends = [moved_copy(self.proxy.model, self.weights) for _ in self.cells.members]
        for key, weight in load_file(path).items():
            index, _, name = key.partition(".")
            ends[int(index)].get_parameter(name).copy_(weight)
        return ends

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> Chunk:
        """The samples' losses before the walk and after each of its ends."""
        memory = Memory()
        before, tokens, states = self.heard(self.proxy.model, batch, memory, samples)
        after: list[Tensor] = [self.passing(end, batch, memory)[0] for end in self.ends]
        return self.chunk(before[:, None] - torch.stack(after, dim=1), before, tokens, batch, states)
