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

from ost.cost import BACKWARD, Stopwatch
from ost.data import Sample
from ost.encoding import Batch
from ost.errors import ModelError
from ost.models import Checkpoint, load_checkpoint
from ost.models.adapter import has_adapter
from ost.scoring.anchors import all_but_each, folds_of, order_by_content
from ost.scoring.kept import kept_json
from ost.scoring.methods.two_pass import TwoPassScorer
from ost.scoring.passes.reuse import PassCache
from ost.scoring.passes.weights import moved_copy
from ost.scoring.swapped import swapped
from ost.settings import Lookahead
from ost.store import write_json
from ost.types import Progress, silent

PATIENCE = 10
"""Steps without a new lowest loss of the anchors left out after which the search for the number of steps ends, unless
the loss is falling again: Adam's first steps are long, and a large model may have to recover from them."""
FIRST = 3
"""Times as many steps until the search ends where no loss was lower than the one before the first step: a model may
need them to recover from Adam's very first steps, which are as long as the rate whatever the gradient is."""
SETTLED = 0.01
"""Share of the whole fall of that loss that is not worth waiting for: the search ends where the last PATIENCE steps
brought less."""
RATES = {False: ((1e7, 1e-3), (1e9, 2e-5), (math.inf, 1e-5)), True: ((1e7, 1e-3), (1e9, 2e-4), (math.inf, 1e-4))}
"""Learning rates of whole weights, and of an adapter (True), of proxies with fewer weights than stands before each.

Below 10 M: what all figures of the built-in worlds were measured with; above: as `ost.training.recipe.RATES`. They
stand here, whose code is part of a run's name, so that no row by another rate is taken over.
"""


def rate_of(proxy: Checkpoint, settings: Lookahead) -> float:
    """The learning rate of the proxy's training on the anchors: as set, or by the proxy's size, see RATES."""
    if settings.learning_rate:
        return settings.learning_rate
    size = proxy.model.num_parameters()
    return next(rate for most, rate in RATES[has_adapter(proxy.model)] if size < most)


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
    """Mean loss of the anchors, in nats, each left out of the training: after each number of steps in `looks`, on fewer
    anchors as many passes over them."""
    before: tuple[float, ...]
    """(A,) the anchors' losses by the proxy as it is."""
    after: tuple[float, ...]
    """(A,) the same after `steps` steps on the other folds: what trusted samples look like."""
    forwards: float
    """Forward-pass equivalents that it took, of the part that moves."""
    learning_rate: float
    """Of the steps, see `rate_of`."""
    swapped_before: tuple[float, ...] = ()
    swapped_after: tuple[float, ...] = ()
    """(A,) the losses of the anchors with each other's answers (see `swapped`), likewise: what wrong samples look like.
    """
    looks: tuple[int, ...] = ()
    """Numbers of steps, from 0 on, after which the anchors left out were looked at."""
    limit: int | None = None
    """Most steps that were tried; None where their number was set."""
    earlier: float = 0.0
    """Seconds that an earlier run looked for it, where it was taken over from it."""

    to_json = asdict

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using scores by these steps."""
        if self.steps == self.limit:
            return [
                "the loss of anchors left out was still falling at score.lookahead.most_steps "
                f"({self.limit}): raise it, or score.lookahead.learning_rate"
            ]
        if self.left_out_loss < self.curve[0]:
            return []
        return [
            f"after {self.steps} step(s) on the others an anchor's loss is {self.left_out_loss:.3f} nats, and was "
            f"{self.curve[0]:.3f} before: the walk learns nothing that carries over; add anchors, set a smaller "
            "score.lookahead.learning_rate, or fewer score.layers"
        ]

    @property
    def left_out_loss(self) -> float:
        """Mean loss of the anchors left out, in nats, after the steps."""
        return self.curve[self.looks.index(self.steps)]

    @property
    def gains(self) -> np.ndarray:
        """(A,) each anchor's loss reduction by steps on others that it is not among."""
        return np.array(self.before) - np.array(self.after)

    @property
    def swapped_gains(self) -> np.ndarray:
        """(A,) the same with another anchor's answer."""
        return np.array(self.swapped_before) - np.array(self.swapped_after)


def encoded_anchors(scorer: TwoPassScorer, anchors: Sequence[Sample]) -> list[AnchorBatch]:
    """Anchors in batches, encoded once, and what lies below the first moved weight computed once."""

    @torch.no_grad()
    def passed(own: Sequence[Sample], batch: Batch) -> AnchorBatch:
        cache = PassCache(own)
        losses, _ = scorer.cached_losses(scorer.proxy.model, batch, cache)
        return AnchorBatch(batch, cache, losses)

    return scorer.with_gradients.run(anchors, passed)


def steps_over(scorer: TwoPassScorer, anchors: Sequence[Sample]) -> list[list[AnchorBatch]]:
    """Anchors as the steps of one pass over them take them, encoded: parts of like size that hold each of them once.

    As many parts as `score.lookahead.batch_size` asks for; which anchor is in which hangs on their contents alone.
    """
    order = [anchors[at] for at in order_by_content([anchor.id for anchor in anchors])]
    parts = steps_a_pass(scorer.settings.lookahead, len(order))
    return [encoded_anchors(scorer, order[part::parts]) for part in range(parts)]


def steps_a_pass(settings: Lookahead, anchors: int) -> int:
    """Steps in which so many anchors have one turn each."""
    return math.ceil(anchors / settings.batch_size)


def steps_on(settings: Lookahead, some: int, anchors: int, steps: int) -> int:
    """Steps on some of the anchors that are as many passes over them as `steps` are over all."""
    return math.ceil(steps * steps_a_pass(settings, some) / steps_a_pass(settings, anchors))


def forwards_on(settings: Lookahead, some: int, anchors: int, steps: int) -> float:
    """Forward-pass equivalents of `steps_on`."""
    taken = steps_on(settings, some, anchors, steps)
    return taken * some / steps_a_pass(settings, some) * (1 + BACKWARD)


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
    known = dict(load_checkpoint(base).model.named_parameters(remove_duplicate=False))
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
    scorer: TwoPassScorer, anchors: Sequence[Sample], start: Mapping[str, Tensor]
) -> Iterator[PreTrainedModel]:
    """A copy of the proxy in training on the mean loss of some anchors: yielded before the first step and after each.

    A step is on one part of the anchors, see `steps_over`, in turn, and there is no last step. By Adam from a fresh
    state, or by plain gradient descent where `score.optimizer` is `sgd`. `start`: the weights to start from, see
    `starting_weights`. Raises ModelError where the loss, and with it the step, is not finite.
    """
    parts = steps_over(scorer, anchors)
    model = moved_copy(scorer.proxy.model, scorer.weights)
    weights = {name: model.get_parameter(name) for name in scorer.weights}
    with torch.no_grad():
        for name, weight in start.items():
            weights[name].copy_(weight)
    kind = torch.optim.SGD if scorer.settings.optimizer == "sgd" else torch.optim.Adam
    rate = rate_of(scorer.proxy, scorer.settings.lookahead)
    optimizer = kind(weights.values(), lr=rate, fused=True)  # makes no copies
    for step in itertools.count():
        yield model
        own = step % len(parts)
        parts[own] = _gradient_taken(scorer, model, list(weights.values()), parts[own])
        optimizer.step()
        optimizer.zero_grad()


def _gradient_taken(
    scorer: TwoPassScorer, model: PreTrainedModel, weights: Sequence[Tensor], anchors: Sequence[AnchorBatch]
) -> list[AnchorBatch]:
    """Add the gradient of the anchors' mean loss to the weights; returns the anchors, in the batches that fitted."""
    count = sum(len(own.losses) for own in anchors)
    try:
        for own in anchors:
            with torch.enable_grad():
                loss = scorer.cached_losses(model, own.batch, own.cache)[0].sum() / count
            if not math.isfinite(loss.item()):
                raise ModelError(
                    f"the anchors' loss is {loss.item()}: check the proxy's weights and the anchors' answers, or set "
                    "a smaller score.lookahead.learning_rate"
                )
            loss.backward(inputs=weights)
    except torch.OutOfMemoryError:
        scorer.with_gradients.budget.halve(own.cache.samples)
    else:
        return list(anchors)
    for weight in weights:
        weight.grad = None
    every = [anchor for own in anchors for anchor in own.cache.samples]
    return _gradient_taken(scorer, model, weights, encoded_anchors(scorer, every))


def plan_steps(scorer: TwoPassScorer, store: Path | None = None, progress: Progress = silent) -> Plan:
    """Train on all anchors but a fold, for each fold in turn, and watch the loss of those left out.

    `steps` is where their mean loss is lowest, but for SETTLED, or what the settings say. With a single fold nothing
    can be left out, and the anchors are watched by the training that they are in. `store`: a file that the plan is kept
    in.
    """
    if (known := kept_json(store)) is not None:
        return Plan(**known)
    watch, found = Stopwatch(), _searched(scorer, folds_of(scorer.anchors, scorer.settings.folds), progress)
    if store:
        write_json(store, found.to_json() | {"earlier": watch.seconds})
    return found


def looks_of(settings: Lookahead, anchors: int) -> list[int]:
    """Numbers of steps, from 0 on, after which anchors that were left out are looked at: once a pass over all anchors.

    After the very first step as well; the last number is the most steps that are taken.
    """
    most = settings.steps or settings.most_steps
    return sorted({0, 1, *range(0, most, steps_a_pass(settings, anchors)), most})


def _searched(scorer: TwoPassScorer, folds: Sequence[Sequence[int]], progress: Progress) -> Plan:
    anchors, wrong, ahead = len(scorer.anchors), swapped(scorer.anchors), scorer.settings.lookahead
    start, before, forwards = starting_weights(scorer), np.empty(2 * anchors), 0.0
    rests, places = all_but_each(folds), [[*own, *(anchors + at for at in own)] for own in folds]
    looks = looks_of(ahead, anchors)
    patience = max(2, math.ceil(PATIENCE / np.diff(looks).max()))
    reached = [[steps_on(ahead, len(rest), anchors, steps) for steps in looks] for rest in rests]

    def walked(fold: int, least: int = 0) -> np.ndarray:
        nonlocal forwards
        own = encoded_anchors(scorer, scorer.some_anchors(folds[fold]))
        own += encoded_anchors(scorer, [wrong[at] for at in folds[fold]])
        before[places[fold]] = torch.cat([part.losses for part in own]).cpu().numpy()
        training = training_path(scorer, scorer.some_anchors(rests[fold]), start)
        path = np.array(list(_watched(training, scorer, own, reached[fold], len(folds[fold]), patience, least)))
        forwards += path.size + forwards_on(ahead, len(rests[fold]), anchors, looks[len(path) - 1])
        return path

    paths: list[np.ndarray] = []
    for fold in range(len(folds)):
        paths.append(walked(fold, _best(ahead, paths, folds) if paths else 0))
        progress(len(paths), len(folds), "walking on the anchors, a fold left out")
    best = _best(ahead, paths, folds)
    while short := [fold for fold, path in enumerate(paths) if len(path) <= best]:
        for fold in short:  # what ended first may not say where the others are best
            paths[fold] = walked(fold, best)
        best = _best(ahead, paths, folds)
    length, ends = min(map(len, paths)), np.empty(2 * anchors)
    curve = _means(paths, folds)[:length]
    for path, own in zip(paths, places, strict=True):
        ends[own] = path[best]
    right, other = ((before[own].tolist(), ends[own].tolist()) for own in (slice(anchors), slice(anchors, None)))
    limit, rate, seen = None if ahead.steps else ahead.most_steps, rate_of(scorer.proxy, ahead), tuple(looks[:length])
    return Plan(looks[best], tuple(curve.tolist()), *map(tuple, right), forwards, rate, *map(tuple, other), seen, limit)


def _means(paths: Sequence[np.ndarray], folds: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean loss at each look of the anchors that were left out; behind the end of a fold's path, as it was there."""
    longest = max(map(len, paths))
    right = [path[:, : len(own)] for path, own in zip(paths, folds, strict=False)]  # behind them stand swapped ones
    padded = [np.pad(path, ((0, longest - len(path)), (0, 0)), mode="edge") for path in right]
    return np.concatenate(padded, axis=1).mean(axis=1)


def _best(settings: Lookahead, paths: Sequence[np.ndarray], folds: Sequence[Sequence[int]]) -> int:
    """The look at which the mean loss is lowest, or the last where the settings say how many steps.

    Among those that all folds have reached, unless a later one is lower by more than SETTLED of the whole fall.
    """
    means, reached = _means(paths, folds), min(map(len, paths))
    if settings.steps:
        return len(means) - 1
    lowest, common = (1 + int(np.argmin(own[1:])) for own in (means, means[:reached]))
    return common if means[common] - means[lowest] <= SETTLED * (means[0] - means[lowest]) else lowest


@torch.no_grad()
def _watched(
    training: Iterator[PreTrainedModel],
    scorer: TwoPassScorer,
    own: Sequence[AnchorBatch],
    looks: Sequence[int],
    anchors: int,
    patience: int,
    least: int,
) -> Iterator[np.ndarray]:
    """Losses of the samples watched after each of these numbers of steps, until the search ends, `least` looks on.

    The first of them are anchors, by whose mean the search ends.
    """
    settings, means = scorer.settings.lookahead, []
    model, taken = next(training), 0
    for steps in looks:
        while taken < steps:
            model, taken = next(training), taken + 1
        losses = [scorer.cached_losses(model, part.batch, part.cache)[0] for part in own]
        found = torch.cat(losses).cpu().numpy()
        yield found
        means.append(found[:anchors].mean())
        if not settings.steps and len(means) > least and _is_over(means, patience):
            return


def _is_over(means: Sequence[float], patience: int = PATIENCE) -> bool:
    """Whether a loss has settled, or has risen: no new lowest for `patience` looks, FIRST times as many from the very
    start, and not on its way down."""
    lowest = int(np.argmin(means))
    can_tell = lowest and len(means) > 1 + patience
    if can_tell and 0 <= means[-1 - patience] - means[-1] < SETTLED * (means[0] - means[-1]):
        return True
    waited = patience if lowest else FIRST * patience
    return len(means) - 1 - lowest >= waited and means[-1] >= means[-1 - max(1, patience // 2)]
