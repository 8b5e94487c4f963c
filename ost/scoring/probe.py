"""The probe of a scoring run: what it will take, from the same run on a few samples and fewer steps."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ost.data import Sample
from ost.execution.estimate import Timeline
from ost.models import Checkpoint
from ost.scoring.checks import count_of
from ost.scoring.methods.lookahead import with_steps
from ost.scoring.score import score
from ost.settings import Execution, Score

ANCHORS, CHECKS, SHARDS = 128, 64, 2
"""Anchors and checked samples that the probe takes at most, and parts that it scores its samples in."""
WALK, CHECK, SCORE = "walking", "checking", "scoring"
"""How the notes of a run's progress begin."""
FEW, MORE = 1, 3
"""Steps of the two runs whose difference tells what a step takes."""


@dataclass(frozen=True)
class ScoringTime:
    """What scoring takes, in seconds."""

    once: float
    """For the anchors and the checks, however large the pool is; at most, where steps are still to be looked for."""
    rate: float
    """Samples of the pool a second."""


def probe_scoring(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    samples: Sequence[Sample],
    settings: Score,
    execution: Execution | None = None,
) -> ScoringTime:
    """Score a few samples twice, and tell from it what a whole run takes.

    Time that depends on anchors, steps or checks is taken to grow in proportion; a step's is the same however many
    anchors there are. Raises what `score` raises.
    """
    few = list(anchors) if settings.method == "exact" else list(anchors[:: -(-len(anchors) // ANCHORS)])
    asked = count_of(settings, proxy.model)
    checks = min(asked, CHECKS, len(samples))
    shard = max(1, len(samples) // SHARDS)
    how = settings.model_copy(update={"checks": checks, "shard_size": shard})
    share, checked = len(anchors) / len(few), asked / max(1, checks)

    def run(steps: int, own: Sequence[Sample] = samples) -> Timeline:
        seen = Timeline()
        score(own, few, proxy, with_steps(how, steps), execution=execution, progress=seen)
        return seen

    run(FEW, samples[:1])  # what is slow the first time
    first = run(FEW)
    rate = statistics.median(_rates(first))
    if settings.method != "lookahead":
        prepared = first.calls[-1][0] - first.until(WALK, CHECK) - len(samples) / rate
        return ScoringTime(first.until(CHECK) * share * checked + max(0.0, prepared) * share, rate)
    (walk, check, last), (walks, checks_more, lasts) = (_phases(one, len(samples), rate) for one in (first, run(MORE)))
    most = settings.lookahead.steps or settings.lookahead.most_steps
    per_step = [
        max(0.0, more - less) / (MORE - FEW) for more, less in ((walks, walk), (checks_more, check), (lasts, last))
    ]
    once = walk + max(0.0, check - FEW * per_step[1]) * checked / share + last
    stepping = (most - FEW) * (per_step[0] + per_step[2]) + most * per_step[1]
    return ScoringTime(once * share + stepping, rate)


def _phases(seen: Timeline, samples: int, rate: float) -> tuple[float, float, float]:
    """Seconds of looking for the steps, of the checks, and of what precedes the pool."""
    walked, checked = seen.until(WALK), seen.until(WALK, CHECK)
    return walked, checked - walked, max(0.0, seen.calls[-1][0] - checked - samples / rate)


def _rates(seen: Timeline) -> list[float]:
    """Samples a second of each part of the pool but the first, whose preparation counts in."""
    own = [(at, done) for at, done, note in seen.calls if note.startswith(SCORE)]
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(own) if b[1] > a[1] and b[0] > a[0]]
