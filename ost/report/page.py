"""The curation's page: what was measured, in words, numbers and pictures that hold everything they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from ost.anchors import Doubtful
from ost.audit.breadth import Breadth
from ost.comparison import entries_of
from ost.data import Sample
from ost.report import charts
from ost.report.answers import Answers, Missed, Parted
from ost.report.kept import kept_labels, kinds_of
from ost.report.template import fill
from ost.report.words import below_zero_words, headline, judged_words, ranking_words, remarks, utility_words
from ost.selection import KEPT
from ost.selection.signal import Signal
from ost.types import Ranking

UNASKED = 6
"""Clusters without an anchor that are shown with examples."""


@dataclass(frozen=True)
class Example:
    """A sample worth looking at."""

    sample: Sample
    utility: float
    verdict: bool | None
    """True: known to be wrong. False: known to be right. None: nobody knows."""
    fate: str = ""
    """That the main subset keeps it, or why not."""

    @property
    def kept(self) -> bool:
        """Whether the main subset keeps it."""
        return self.fate == KEPT


@dataclass(frozen=True)
class Suspect:
    """An anchor that the others contradict."""

    sample: Sample
    doubt: Doubtful


@dataclass(frozen=True)
class Unasked:
    """A cluster of the pool that no anchor is near."""

    samples: int
    far: float
    """Their distance from an anchor, as a multiple of what is usual."""
    examples: Sequence[Sample]
    """A few from its middle; of them the page shows no answer."""


@dataclass(frozen=True)
class ReportData:
    """All that the page shows; what is missing is left out, or the page says why."""

    title: str
    arms: list[dict]
    """Rows of `metrics/arms.json`; several seeds are averaged."""
    utility: np.ndarray
    """(N,) float64, not finite where a sample was quarantined."""
    toxic: int
    """Samples flagged as toxic."""
    wrong: np.ndarray | None
    """(N,) bool, the known truth, or None."""
    highest: list[Example]
    lowest: list[Example]
    """Both ends of the ranking, the end first."""
    audit: dict | None
    """What `ost.audit.harm.audit` returned, or None where nobody knows the truth."""
    breadth: Mapping[str, Breadth]
    """Label of a subset → breadth of what it keeps; empty where nobody measured."""
    ingest: dict
    """`{"pool" | "anchors" | "benchmark": {"read", "kept", "quarantined", "reasons": {reason: count}}}`."""
    warnings: list[str]
    stages: list[dict]
    """`{"stage", "seconds", "flops"}`, in the order in which they ran."""
    facts: dict[str, str]
    """Where the page comes from: commit, seed, proxy, target, method …"""
    ranking: Ranking = "utility"
    """What ranked the pool."""
    chosen: str = ""
    """Label of the main subset, and how it was chosen."""
    steps: int | None = None
    """Steps on the anchors that the utility looks ahead; None where it is that of one step on the sample."""
    has_errors: bool = False
    """Whether the utilities have standard errors, by which harm is tested then."""
    signal: Signal | None = None
    """Whether the scores tell right from wrong at all; None where nobody looked."""
    selections: Mapping[str, str] = field(default_factory=dict)
    """Label of a subset → the table of what it keeps, the main one first."""
    parted: Parted | None = None
    """Where the main subset's model and Full-SFT, or the base, part."""
    missed: Sequence[Missed] = ()
    """What models say where they are wrong."""
    answers: Sequence[Answers] = ()
    """What each evaluated model said, and how that was judged."""
    doubtful: Sequence[Suspect] = ()
    """The most doubtful first; none where no scores tell of anchors."""
    unasked: Sequence[Unasked] = ()
    """The largest first; none where the scores hold no sketches."""

    @property
    def claims(self) -> bool:
        """Whether the scores may say anything of harm: they tell right from wrong, or nobody looked."""
        return self.signal is None or self.signal.tells


def render(data: ReportData) -> str:
    """The page as one HTML text that asks for nothing from outside; the same text for the same data."""
    entries, purity = entries_of(data.arms), (data.audit or {}).get("purity", {})
    return fill(
        "page.html",
        data=data,
        headline=headline(entries),
        remarks=remarks(entries, data.ingest.get("benchmark", {}).get("kept")),
        groups=charts.by_protocol(entries),
        full={entry["protocol"]: entry["accuracy"] for entry in entries if entry["arm"] == "full"},
        tasks=sorted({task for entry in entries for task in entry["by_task"]}),
        charts=_charts(data, entries),
        finite=int(np.isfinite(data.utility).sum()),
        negative=int((data.utility < 0).sum()),
        examples={"highest": data.highest, "lowest": data.lowest},
        utility_words=utility_words(data.steps, data.has_errors, data.claims),
        below_zero=below_zero_words(data.toxic, data.claims),
        judged=judged_words(data.answers),
        ranking_words=ranking_words(data.ranking),
        purity=purity,
        kept=kept_labels(purity, data.breadth, [entry["label"] for entry in entries]),
        kinds=kinds_of(data.breadth),
        unasked_shown=UNASKED,
    )


def _charts(data: ReportData, entries: list[dict]) -> dict[str, Markup]:
    """Inline SVG by name, of what there is to show."""
    drawn = {}
    if np.isfinite(data.utility).any():
        histogram = charts.utility_chart(data.utility, data.wrong, data.claims)
        drawn["utility"] = charts.svg(histogram, "utility", "Histogram of utility")
    if entries:
        drawn["accuracy"] = charts.svg(charts.accuracy_chart(entries), "accuracy", "Accuracy by arm and protocol")
        drawn["cost"] = charts.svg(charts.cost_chart(entries), "cost", "Accuracy against total seconds")
    return drawn
