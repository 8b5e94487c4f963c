"""The scoring methods: what each does to tell a sample's utility for the anchors."""

from collections.abc import Sequence
from pathlib import Path

from ost.data import Sample
from ost.models import Checkpoint
from ost.scoring.methods.exact import ExactScorer
from ost.scoring.methods.gradient import GradientScorer
from ost.scoring.methods.lookahead import LookaheadScorer
from ost.scoring.methods.scorer import Scorer
from ost.scoring.methods.transposed import TransposedScorer
from ost.settings import Execution, Score
from ost.types import Arithmetic, Method

METHODS: dict[Method, type[Scorer]] = {
    "exact": ExactScorer,
    "gradient": GradientScorer,
    "transposed": TransposedScorer,
    "lookahead": LookaheadScorer,
}


def prepared_scorer(
    proxy: Checkpoint,
    anchors: Sequence[Sample],
    settings: Score,
    arithmetic: Arithmetic = "fp32",
    execution: Execution | None = None,
    store: Path | None = None,
) -> Scorer:
    """The method that the settings name, prepared; `store`: see `Scorer.prepare`."""
    return METHODS[settings.method](proxy, anchors, settings, arithmetic, execution).ready(store)
