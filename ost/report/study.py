"""A study in pictures: how accuracies and scores change with what is varied."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ost.report.charts import DASHED, colour_of, png, stacked

LEGEND = {
    "frameon": False, "loc": "lower center", "bbox_to_anchor": (0.45, 1.0), "columnspacing": 1.2, "handlelength": 3,
    "fontsize": 8.5,
}  # fmt: skip
DASHES = ("-", "--", ":", "-.")
"""What tells lines of one colour apart."""


@dataclass(frozen=True)
class Line:
    """What one subset or score comes to, over what is varied."""

    name: str
    kind: str
    """The arm or score that it is of, which settles its colour."""
    points: Sequence[Mapping]
    """Each a `place` on the x axis, a `value` and the `range` of the seeds."""


@dataclass(frozen=True)
class Panel:
    """One y axis of a study's chart."""

    label: str
    lines: Sequence[Line]
    scale: float = 1
    """What values are multiplied by."""

    @property
    def names(self) -> list[str]:
        """Its lines', in their order."""
        return [line.name for line in self.lines]


def study_figure(panels: Sequence[Panel], axis: str, logarithmic: bool = False, ticks: Sequence[str] = ()) -> Figure:
    """The chart of a study: panels above each other, over what is varied; those without lines are left out.

    `ticks`: what stands at the places 0, 1, 2 …, where they are no numbers; points are not joined then.
    """
    shown = [panel for panel in panels if panel.lines]
    figure, drawn = stacked(1.2 + 2.3 * len(shown), len(shown))
    for axes, panel in zip(drawn, shown, strict=True):
        _draw_lines(axes, panel, joined=not ticks)
        axes.set_ylabel(panel.label)
        if axes is drawn[0] or panel.names != shown[0].names:
            axes.legend(ncols=3 if len(panel.lines) <= 3 else 2, **LEGEND)
    drawn[-1].set_xlabel(axis)
    if logarithmic:
        drawn[0].set_xscale("log")
    places = sorted({point["place"] for panel in shown for line in panel.lines for point in line.points})
    if logarithmic or all(place == round(place) for place in places):
        drawn[-1].set_xticks(places, ticks or [f"{place:g}" for place in places], fontsize=8 if ticks else None)
        drawn[0].minorticks_off()
    return figure


def study_png(
    panels: Sequence[Panel], axis: str, path: str | Path, logarithmic: bool = False, ticks: Sequence[str] = ()
) -> None:
    """Publish the chart of a study (see `study_figure`) as a PNG on white."""
    png(study_figure(panels, axis, logarithmic, ticks), path)


def _draw_lines(axes: Axes, panel: Panel, joined: bool) -> None:
    """Each line in its kind's colour; one of a single point does not change with what is varied, and goes across."""
    dashes: dict[str, Iterator[str]] = {}
    for line in panel.lines:
        look = {"color": (colour := colour_of(line.kind)), "label": line.name}
        dash = next(dashes.setdefault(colour, itertools.cycle(DASHES)))
        places, heights = zip(*((at["place"], panel.scale * at["value"]) for at in line.points), strict=True)
        if len(places) == 1:
            axes.axhline(heights[0], linewidth=1, linestyle=DASHED, **look)
            continue
        axes.plot(places, heights, marker="o", markersize=4, linewidth=2 if joined else 0, linestyle=dash, **look)
        for at in line.points:
            ends = [panel.scale * end for end in at["range"]]
            axes.plot([at["place"]] * 2, ends, linewidth=1.2, color=colour, alpha=0.6)
