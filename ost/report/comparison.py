"""A comparison in pictures and on a page: accuracy with its interval, and what it cost."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ost.report.charts import LIGHT, canvas, stacked, svg, time_unit
from ost.report.page import environment, palettes
from ost.store import publish

COLOURS = {
    "full": "full", "random": "random", "anchors": "random", "random-anchors": "random", "oracle": "base",
    "clean": "base", "judge": "violet", "deita": "sky", "less": "right", "color": "right", "rho": "right",
    "low-loss": "wrong", "rated": "sky", "ost": "ost", "one-step": "ost", "lookahead": "wide",
}  # fmt: skip
"""Colour of each arm, and of each score of ours: all that is chosen by one has its colour."""
LEGEND = {
    "frameon": False, "loc": "lower center", "bbox_to_anchor": (0.45, 1.0), "columnspacing": 1.2, "handlelength": 3,
    "fontsize": 8.5,
}  # fmt: skip
DASHES = ("-", "--", ":", "-.")
"""What tells lines of one colour apart."""
PROTOCOLS = {"B": "protocol B: as many steps as Full-SFT", "A": "protocol A: as many epochs"}


def accuracy_figure(summary: Mapping, protocol: str = "B") -> Figure:
    """A point for each subset, its 95 % interval, and a small point for each seed."""
    entries = _entries(summary, protocol)
    figure, axes = canvas(0.9 + 0.3 * len(entries))
    for place, entry in enumerate(entries):
        colour, (low, high) = _colour(entry["arm"]), entry["interval"]
        axes.plot([100 * value for value in entry["accuracies"]], [place] * len(entry["accuracies"]), "|", color=colour)
        if low is not None:
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2, alpha=0.6)
        axes.plot(100 * entry["accuracy"], place, "o", color=colour, markersize=7, markeredgewidth=0)
    axes.set_yticks(range(len(entries)), [entry["label"] for entry in entries], parse_math=False)
    axes.set(ylim=(len(entries) - 0.5, -0.5), xlabel=f"benchmark accuracy, %\n{PROTOCOLS[protocol]}")
    axes.grid(visible=False, axis="y")
    for full in [entry for entry in entries if entry["arm"] == "full"]:
        axes.axvline(100 * full["accuracy"], color=LIGHT["full"], linewidth=1, linestyle=(0, (3, 3)), zorder=0)
    return figure


def cost_figure(summary: Mapping) -> Figure:
    """Accuracy against all that choosing and training took; a line joins what nothing else beats on both."""
    entries = [entry for entry in summary["entries"] if entry["arm"] not in ("oracle", "clean")]
    seconds, unit = time_unit(max((entry["total_seconds"] for entry in entries), default=0.0))
    figure, axes = canvas(3.8)
    front = sorted((entry for entry in entries if entry["front"]), key=lambda entry: entry["total_seconds"])
    places = {id(entry): (entry["total_seconds"] / seconds, 100 * entry["accuracy"]) for entry in entries}
    best = [entry for entry in front if all(_beats(entry, other) for other in front if other is not entry)]
    axes.plot(*zip(*(places[id(entry)] for entry in best), strict=True), color=LIGHT["line"], linewidth=6, zorder=0)
    for entry in entries:
        alpha = 0.45 if entry["protocol"] == "A" else 1.0
        axes.plot(*places[id(entry)], "o", color=_colour(entry["arm"]), alpha=alpha, markersize=8, markeredgewidth=0)
        note = {"textcoords": "offset points", "xytext": (6, 4), "fontsize": 8, "color": LIGHT["ink"]}
        if entry["front"] or entry["protocol"] == "B":
            axes.annotate(f"{entry['label']}, {entry['protocol']}", places[id(entry)], parse_math=False, **note)
    axes.margins(x=0.22, y=0.1)
    axes.set(xlabel=f"choosing and training together, {unit}", ylabel="benchmark accuracy, %")
    return figure


def accuracies_png(summary: Mapping, path: str | Path) -> None:
    """Publish the chart of accuracies under protocol B, or A where only that was run, as a PNG on white."""
    _png(accuracy_figure(summary, _protocols(summary)[0]), path)


def costs_png(summary: Mapping, path: str | Path) -> None:
    """Publish the chart of accuracy against cost as a PNG on white."""
    _png(cost_figure(summary), path)


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
    _png(study_figure(panels, axis, logarithmic, ticks), path)


def _draw_lines(axes: Axes, panel: Panel, joined: bool) -> None:
    """Each line in its kind's colour; one of a single point does not change with what is varied, and goes across."""
    dashes: dict[str, Iterator[str]] = {}
    for line in panel.lines:
        look = {"color": (colour := _colour(line.kind)), "label": line.name}
        dash = next(dashes.setdefault(colour, itertools.cycle(DASHES)))
        places, heights = zip(*((at["place"], panel.scale * at["value"]) for at in line.points), strict=True)
        if len(places) == 1:
            axes.axhline(heights[0], linewidth=1, linestyle=(0, (3, 3)), **look)
            continue
        axes.plot(places, heights, marker="o", markersize=4, linewidth=2 if joined else 0, linestyle=dash, **look)
        for at in line.points:
            ends = [panel.scale * end for end in at["range"]]
            axes.plot([at["place"]] * 2, ends, linewidth=1.2, color=colour, alpha=0.6)


def comparison_page(name: str, summary: Mapping) -> str:
    """The comparison as one HTML text that asks for nothing from outside."""
    figures = {protocol: accuracy_figure(summary, protocol) for protocol in _protocols(summary)}
    return (
        environment()
        .get_template("comparison.html")
        .render(
            name=name,
            summary=summary,
            protocols=PROTOCOLS,
            entries={protocol: _entries(summary, protocol) for protocol in figures},
            accuracies={
                protocol: svg(figure, f"accuracy-{protocol}", f"Accuracy of each arm, {PROTOCOLS[protocol]}")
                for protocol, figure in figures.items()
            },
            cost=svg(cost_figure(summary), "cost", "Accuracy of each arm against what it cost"),
            palettes=palettes(),
        )
    )


def _entries(summary: Mapping, protocol: str) -> Sequence[Mapping]:
    return [entry for entry in summary["entries"] if entry["protocol"] == protocol]


def _protocols(summary: Mapping) -> list[str]:
    return [name for name in PROTOCOLS if _entries(summary, name)]


def _colour(kind: str) -> str:
    """Colour of an arm or a score; an arm of ours, such as `ost-cover`, has that of its score."""
    return LIGHT[COLOURS.get(kind) or COLOURS[kind.partition("-")[0]]]


def _beats(entry: Mapping, other: Mapping) -> bool:
    return entry["accuracy"] > other["accuracy"] or entry["total_seconds"] < other["total_seconds"]


def _png(figure: Figure, path: str | Path) -> None:
    with publish(path) as part:
        figure.savefig(part, format="png", dpi=200, facecolor="white", metadata={"Software": None})
