"""Walks of the proxy down the anchors' loss, and how far to go: as far as anchors that were left out gain by it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ost.config import Lookahead
from ost.cost import BACKWARD
from ost.encoding import Batch
from ost.errors import ModelError
from ost.scoring.anchors import folds_of
from ost.scoring.sharing import Memory
from ost.scoring.two_pass import TwoPassScorer
from ost.scoring.weights import before_warmup, moved_copy, scored_weights
from ost.store import read_json, write_json
from ost.types import Progress, silent

PATIENCE = 10
"""Steps without a new lowest loss of the anchors left out after which a walk that looks for its length ends."""


@dataclass(frozen=True)
class Stretch:
    """Some anchors as a batch, and what all passes over it have in common."""

    members: tuple[int, ...]
    batch: Batch
    memory: Memory
    losses: Tensor
    """(n,) by the proxy as it is."""


@dataclass(frozen=True)
class Plan:
    """How many steps to take, and why."""

    steps: int
    curve: tuple[float, ...]
    """Mean loss of the anchors, in nats, each left out of the walk: after 0, 1, … steps."""
    before: tuple[float, ...]
    """(A,) the anchors' losses by the proxy as it is."""
    after: tuple[float, ...]
    """(A,) the same after `steps` steps on the other folds: what trusted samples look like."""
    forwards: float
    """Forward-pass equivalents that it took, of the part that moves."""

    to_json = asdict

    @property
    def warnings(self) -> list[str]:
        """What a person should know before using scores of this walk."""
        if self.curve[self.steps] < self.curve[0]:
            return []
        return [
            f"after {self.steps} step(s) on the others an anchor's loss is {self.curve[self.steps]:.3f} nats, and was "
            f"{self.curve[0]:.3f} before: the walk learns nothing that carries over; add anchors, set a smaller "
            "score.lookahead.learning_rate, or fewer score.layers"
        ]

    @property
    def gains(self) -> np.ndarray:
        """(A,) each anchor's loss reduction by a walk that left it out."""
        return np.array(self.before) - np.array(self.after)


@torch.no_grad()
def stretches(scorer: TwoPassScorer, members: Sequence[int]) -> list[Stretch]:
    """Some anchors, encoded once, and what lies below the first moved weight computed once."""
    size, found = scorer.settings.batch_size, []
    for part in (tuple(members[start : start + size]) for start in range(0, len(members), size)):
        anchors, memory = [scorer.anchors[at] for at in part], Memory()
        batch = scorer.encode(anchors)
        losses, _ = scorer.passing(scorer.proxy.model, batch, memory, anchors)
        found.append(Stretch(part, batch, memory, losses))
    return found


def others(folds: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each fold the anchors of all others; of a single fold its own."""
    return [
        [at for other, part in enumerate(folds) if other != fold or len(folds) == 1 for at in part]
        for fold in range(len(folds))
    ]


def start_of(scorer: TwoPassScorer) -> dict[str, Tensor]:
    """The weights that walks start from, by name; none where those are the proxy's own.

    Raises ModelError where it is the base, and that is not known or not the proxy's.
    """
    base = scorer.proxy.base
    if not scorer.settings.lookahead.from_base(base):
        return {}
    if base is None:
        raise ModelError(
            "score.lookahead.start is `base`, and what the proxy was warmed up from is not known: name it (`ost score "
            "--base`, `load_checkpoint(…, base=…)`), or set it to warm"
        )
    return before_warmup(scorer.proxy, scorer.weights)


class Walk:
    """A copy of the proxy on its way down the mean loss of some anchors, all of them at every step.

    By Adam from a fresh state, or by plain gradient descent where `score.optimizer` is `sgd`.
    """

    def __init__(self, scorer: TwoPassScorer, members: Sequence[int], start: Mapping[str, Tensor]):
        """`start`: the weights that it starts from, see `start_of`."""
        self._scorer, self._stretches = scorer, stretches(scorer, members)
        self._anchors = len(members)
        self.model = moved_copy(scorer.proxy.model, scorer.weights)
        own = scored_weights(self.model, scorer.settings.layers)
        self._weights = list(own.values())
        with torch.no_grad():
            for name, weight in start.items():
                own[name].copy_(weight)
        kind = torch.optim.SGD if scorer.settings.optimizer == "sgd" else torch.optim.Adam
        self._optimizer = kind(self._weights, lr=scorer.settings.lookahead.learning_rate)

    @torch.enable_grad()
    def step(self) -> None:
        """One optimizer step. Raises ModelError where the loss, and with it the step, is not finite."""
        self._optimizer.zero_grad()
        for stretch in self._stretches:
            losses, _ = self._scorer.passing(self.model, stretch.batch, stretch.memory)
            loss = losses.sum() / self._anchors
            if not math.isfinite(loss.item()):
                raise ModelError(
                    f"the anchors' loss is {loss.item()}: check the proxy's weights and the anchors' answers, or set "
                    "a smaller score.lookahead.learning_rate"
                )
            loss.backward(inputs=self._weights)
        self._optimizer.step()

    def go(self, steps: int) -> "Walk":
        """Take so many steps."""
        for _ in range(steps):
            self.step()
        return self


def draw_up(scorer: TwoPassScorer, store: Path | None = None, progress: Progress = silent) -> Plan:
    """Walk on all anchors but a fold, for each fold in turn, and watch the loss of those left out.

    `steps` is where their mean loss is lowest, or what the settings say. With a single fold nothing can be left out,
    and the anchors are watched by the walk that they are on. `store`: a file that the plan is kept in.
    """
    if store and store.exists():
        return Plan(**read_json(store) | {"forwards": 0.0})
    found = _plan(scorer, folds_of(scorer.anchors, scorer.settings.folds), progress)
    if store:
        write_json(store, found.to_json())
    return found


def _plan(scorer: TwoPassScorer, folds: Sequence[Sequence[int]], progress: Progress) -> Plan:
    settings, note = scorer.settings.lookahead, "walking on the anchors, a fold left out"
    paths, forwards, start, before = [], 0.0, start_of(scorer), np.empty(len(scorer.anchors))
    for members, rest in zip(folds, others(folds), strict=True):
        own = stretches(scorer, members)
        before[list(members)] = torch.cat([stretch.losses for stretch in own]).cpu().numpy()
        path = np.array(list(_watched(Walk(scorer, rest, start), scorer, own, settings)))
        paths.append(path)
        progress(len(paths), len(folds), note)
        forwards += path.size + (len(path) - 1) * (1 + BACKWARD) * len(rest)
    longest = max(map(len, paths))
    losses = np.full((longest, len(scorer.anchors)), np.inf)
    for path, members in zip(paths, folds, strict=True):
        losses[: len(path), list(members)] = path
    curve = losses.mean(axis=1)
    steps = settings.steps or 1 + int(np.argmin(curve[1:]))
    finite = tuple(curve[np.isfinite(curve)].tolist())
    return Plan(steps, finite, tuple(before.tolist()), tuple(losses[steps].tolist()), forwards)


@torch.no_grad()
def _watched(walk: Walk, scorer: TwoPassScorer, own: Sequence[Stretch], settings: Lookahead) -> Iterator[np.ndarray]:
    """Losses of the anchors watched before the first step and after each, until the walk's end."""
    lowest, since, fixed = np.inf, 0, settings.steps
    for step in range(1 + (fixed or settings.most_steps)):
        if step:
            walk.step()
        passes = [scorer.passing(walk.model, stretch.batch, stretch.memory)[0] for stretch in own]
        found = torch.cat(passes).cpu().numpy()
        yield found
        lowest, since = (found.mean(), 0) if found.mean() < lowest else (lowest, since + 1)
        if not fixed and since >= PATIENCE:
            return
