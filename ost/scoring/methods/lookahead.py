"""`lookahead`: many steps on the anchors instead of one, and each pool sample's own loss before and after."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ost.cost import Stopwatch
from ost.data import Sample
from ost.encoding import Batch
from ost.execution.arithmetic import lowered
from ost.scoring.anchors import all_but_each
from ost.scoring.kept import keep_weights, kept_weights
from ost.scoring.methods.anchor_training import plan_steps, starting_weights, steps_on, training_path
from ost.scoring.methods.scorer import BatchScores, TurnScores
from ost.scoring.methods.two_pass import TwoPassScorer
from ost.scoring.passes.reuse import PassCache
from ost.scoring.passes.weights import moved_copy
from ost.settings import Score


class LookaheadScorer(TwoPassScorer):
    """Loss, in nats, that a sample loses while the proxy takes k optimizer steps on the anchors.

    The many-step form of `transposed`: with one short step of plain gradient descent the two rank alike. With detail
    `total` the proxy is trained once, on all anchors; with `folds` once for each fold, on the others: the mean is the
    utility, and the disagreement its standard error. k is `score.lookahead.steps`, or, where that is null, the number
    of steps at which anchors that were left out have the lowest loss. Two passes a sample, the second through what
    moves alone.

    The steps start from the base that the proxy was warmed up from, where that is known (`score.lookahead.start`): the
    errors that the warm-up learned from the pool are then in the first loss alone, and count in full.

    Neighbours: Train on Validation (arXiv:2510.00386) reads the pool before and after a short training on the anchors,
    from the warm proxy. TACS (arXiv:2605.09404) ranks by the share of the loss lost on a rank-1 path on the anchors,
    from the base, and stops where the path turns away from anchors held out. CoLoR-Filter (arXiv:2406.10670) takes the
    same difference between a prior and that prior fine-tuned on the target data, to the end of a schedule; RHO-LOSS
    (arXiv:2206.07137) that between the model in training and one trained on holdout data alone, as here from the base.
    Here there are as many steps as help what they have not seen, and the difference may be taken relative to the
    sample's own loss, so that what the proxy cannot do yet does not rank by its sheer loss.
    """

    def preconditioner(self) -> None:
        """None: the steps are an optimizer's own."""

    def prepare(self, store: Path | None = None) -> None:
        """Train on the anchors, or load the weights of an earlier training: a few new samples cost none."""
        known = kept_weights(store)
        self.ends = self._trained(store) if known is None else self._with(known)
        if self.arithmetic == "bf16":  # no weight moves any more
            self.ends = [lowered(end, {}, "bf16") for end in self.ends]
            self.proxy = dataclasses.replace(self.proxy, model=lowered(self.proxy.model, {}, "bf16"))
            self.weights = {name: self.proxy.model.get_parameter(name) for name in self.weights}
            self.without_autocast(self.proxy.model)

    def _trained(self, store: Path | None) -> list[PreTrainedModel]:
        """Copies of the proxy after the steps, one for each cell."""
        watch, start = Stopwatch(), starting_weights(self)
        steps = self.settings.lookahead.steps or plan_steps(self).steps
        ends = []
        for anchors in map(self.some_anchors, all_but_each(self.partition.members)):
            taken = steps_on(self.settings.lookahead, len(anchors), len(self.anchors), steps)
            ends.append(next(itertools.islice(training_path(self, anchors, start), taken, None)))
        if store:
            keep_weights(store, self._moved(ends), watch.seconds)
        return ends

    def compilable(self) -> list[PreTrainedModel]:
        """The proxy, from now on a copy that holds the same tensors, and each trained copy of it."""
        self.proxy = dataclasses.replace(self.proxy, model=moved_copy(self.proxy.model, ()))
        return [self.proxy.model, *self.ends]

    def _moved(self, ends: Sequence[PreTrainedModel]) -> dict[str, torch.Tensor]:
        return {
            f"{index}.{name}": end.get_parameter(name).detach().cpu().contiguous()
            for index, end in enumerate(ends)
            for name in self.weights
        }

    @torch.no_grad()
    def _with(self, weights: Mapping[str, torch.Tensor]) -> list[PreTrainedModel]:
        ends = [moved_copy(self.proxy.model, self.weights) for _ in self.partition.members]
        for key, weight in weights.items():
            index, _, name = key.partition(".")
            ends[int(index)].get_parameter(name).copy_(weight)
        return ends

    @torch.no_grad()
    def score_batch(self, samples: Sequence[Sample], batch: Batch) -> BatchScores:
        """The samples' losses by the proxy, less those by each trained copy."""
        cache = PassCache(samples)
        with self.states.recorded(self.proxy.model, batch) as states:
            warm = self.cached_token_losses(self.proxy.model, batch, cache)
        trained = [self.cached_token_losses(end, batch, cache) for end in self.ends]
        (before, tokens), (turns, counts) = warm.by_sample(self.settings.reduction), warm.by_turn()
        after = torch.stack([end.by_sample(self.settings.reduction)[0] for end in trained], dim=1)
        saved = turns - torch.stack([end.by_turn()[0] for end in trained]).mean(dim=0)
        own = TurnScores(saved.cpu(), turns.cpu(), counts.cpu())
        return self.batch_scores(before[:, None] - after, before, tokens, batch, *states, turns=own)


def with_steps(settings: Score, steps: int | None) -> Score:
    """The settings with this number of steps in place of a search for it."""
    return settings.model_copy(update={"lookahead": settings.lookahead.model_copy(update={"steps": steps})})
