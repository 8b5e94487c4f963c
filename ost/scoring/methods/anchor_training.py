"""Training of the proxy's copies on the anchors, until anchors that were left out stop gaining."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ost.cost import BACKWARD
from ost.encoding import Batch
from ost.errors import ModelError
from ost.models import load_checkpoint
from ost.scoring.anchors import all_but_each, folds_of
from ost.scoring.methods.two_pass import TwoPassScorer
from ost.scoring.passes.reuse import PassCache
from ost.scoring.passes.weights import moved_copy, scored_weights
from ost.store import read_json, write_json
from ost.types import Progress, silent

PATIENCE = 10
"""Steps without a new lowest loss of the anchors left out after which the search for the number of steps ends."""


@dataclass(frozen=True)
class AnchorBatch:
    """Some anchors, encoded, and what all passes over them have in common."""

    batch: Batch
    cache: PassCache
    losses: Tensor
    """(n,) by the proxy as it is."""


@dataclass(frozen=True)
class Plan:
    """How many steps to take on the anchors, and why."""

    steps: int
    curve: tuple[float, ...]
    """Mean loss of the anchors, in nats, each left out of the training: after 0, 1, … steps."""
    before: tuple[float, ...]
    """(A,) the anchors' losses by the proxy as it is."""
    after: tuple[float, ...]
    """(A,) the same after `steps` steps on the other folds: what trusted samples look like."""
    forwards: float
    """Forward-pass equivalents that it took, of the part that moves."""

    to_json = asdict

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using scores by these steps."""
        if self.curve[self.steps] < self.curve[0]:
            return []
        return [
            f"after {self.steps} step(s) on the others an anchor's loss is {self.curve[self.steps]:.3f} nats, and was "
            f"{self.curve[0]:.3f} before: the walk learns nothing that carries over; add anchors, set a smaller "
            "score.lookahead.learning_rate, or fewer score.layers"
        ]

    @property
    def gains(self) -> np.ndarray:
        """(A,) each anchor's loss reduction by steps on others that it is not among."""
        return np.array(self.before) - np.array(self.after)


@torch.no_grad()
def encoded_anchors(scorer: TwoPassScorer, members: Sequence[int]) -> list[AnchorBatch]:
    """Some anchors in batches, encoded once, and what lies below the first moved weight computed once."""
    found = []
    for anchors in scorer.anchor_batches(members):
        batch, cache = scorer.encode(anchors), PassCache(anchors)
        losses, _ = scorer.cached_losses(scorer.proxy.model, batch, cache)
        found.append(AnchorBatch(batch, cache, losses))
    return found


def starting_weights(scorer: TwoPassScorer) -> dict[str, Tensor]:
    """The weights that a training on the anchors starts from, by name, where they are not the proxy's; else empty.

    Those of the base, if it starts there; an adapter's B is zero there, so that its A plays no part. Raises ModelError
    where the base is not known, or not one that the proxy can come from.
    """
    base, weights = scorer.proxy.base, scorer.weights
    if not scorer.settings.lookahead.from_base(base):
        return {}
    if base is None:
        raise ModelError(
            "score.lookahead.start is `base`, and what the proxy was warmed up from is not known: name it (`ost score "
            "--base`, `load_checkpoint(…, base=…)`), or set it to warm"
        )
    known = dict(load_checkpoint(base, scorer.proxy.model.device).model.named_parameters(remove_duplicate=False))
    known |= {name: torch.zeros_like(weight) for name, weight in weights.items() if "lora_B" in name}
    known |= {name: weight for name, weight in weights.items() if "lora_A" in name}
    strange = [name for name, weight in weights.items() if name not in known or known[name].shape != weight.shape]
    if strange:
        raise ModelError(
            f"the proxy was not warmed up from {base}: {len(strange)} of its weights are not there in the same "
            f"shape, such as {strange[0]}; name the checkpoint that it was, or set score.lookahead.start to warm"
        )
    return {name: known[name].detach() for name in weights}


def training_path(
    scorer: TwoPassScorer, anchors: Sequence[AnchorBatch], start: Mapping[str, Tensor]
) -> Iterator[PreTrainedModel]:
    """A copy of the proxy in training on the mean loss of some anchors: yielded before the first step and after each.

    All anchors are in every step, and there is no last step. By Adam from a fresh state, or by plain gradient descent
    where `score.optimizer` is `sgd`. `start`: the weights to start from, see `starting_weights`. Raises ModelError
    where the loss, and with it the step, is not finite.
    """
    model, count = moved_copy(scorer.proxy.model, scorer.weights), sum(len(own.losses) for own in anchors)
    weights = scored_weights(model, scorer.settings.layers)
    with torch.no_grad():
        for name, weight in start.items():
            weights[name].copy_(weight)
    kind = torch.optim.SGD if scorer.settings.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(weights.values(), lr=scorer.settings.lookahead.learning_rate)
    while True:
        yield model
        for own in anchors:
            with torch.enable_grad():
                loss = scorer.cached_losses(model, own.batch, own.cache)[0].sum() / count
            if not math.isfinite(loss.item()):
                raise ModelError(
                    f"the anchors' loss is {loss.item()}: check the proxy's weights and the anchors' answers, or set "
                    "a smaller score.lookahead.learning_rate"
                )
            loss.backward(inputs=list(weights.values()))
        optimizer.step()
        optimizer.zero_grad()


def plan_steps(scorer: TwoPassScorer, store: Path | None = None, progress: Progress = silent) -> Plan:
    """Train on all anchors but a fold, for each fold in turn, and watch the loss of those left out.

    `steps` is where their mean loss is lowest, or what the settings say. With a single fold nothing can be left out,
    and the anchors are watched by the training that they are in. `store`: a file that the plan is kept in.
    """
    if store and store.exists():
        return Plan(**read_json(store) | {"forwards": 0.0})
    found = _searched(scorer, folds_of(scorer.anchors, scorer.settings.folds), progress)
    if store:
        write_json(store, found.to_json())
    return found


def _searched(scorer: TwoPassScorer, folds: Sequence[Sequence[int]], progress: Progress) -> Plan:
    paths, forwards, start, before = [], 0.0, starting_weights(scorer), np.empty(len(scorer.anchors))
    for members, rest in zip(folds, all_but_each(folds), strict=True):
        own = encoded_anchors(scorer, members)
        before[list(members)] = torch.cat([part.losses for part in own]).cpu().numpy()
        path = np.array(list(_watched(training_path(scorer, encoded_anchors(scorer, rest), start), scorer, own)))
        paths.append(path)
        progress(len(paths), len(folds), "walking on the anchors, a fold left out")
        forwards += path.size + (len(path) - 1) * (1 + BACKWARD) * len(rest)
    losses = np.full((max(map(len, paths)), len(scorer.anchors)), np.inf)
    for path, members in zip(paths, folds, strict=True):
        losses[: len(path), list(members)] = path
    curve = losses.mean(axis=1)
    steps = scorer.settings.lookahead.steps or 1 + int(np.argmin(curve[1:]))
    finite = tuple(curve[np.isfinite(curve)].tolist())
    return Plan(steps, finite, tuple(before.tolist()), tuple(losses[steps].tolist()), forwards)


@torch.no_grad()
def _watched(
    training: Iterator[PreTrainedModel], scorer: TwoPassScorer, own: Sequence[AnchorBatch]
) -> Iterator[np.ndarray]:
    """Losses of the anchors watched before the first step and after each, until the search ends."""
    settings, lowest, since = scorer.settings.lookahead, np.inf, 0
    for model in itertools.islice(training, 1 + (settings.steps or settings.most_steps)):
        losses = [scorer.cached_losses(model, part.batch, part.cache)[0] for part in own]
        found = torch.cat(losses).cpu().numpy()
        yield found
        lowest, since = (found.mean(), 0) if found.mean() < lowest else (lowest, since + 1)
        if not settings.steps and since >= PATIENCE:
            return
