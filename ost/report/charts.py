"""The charts of the pages: accuracies, costs and utilities, as inline SVG for a page or as PNG for a file.

The SVG holds no colours but CSS variables, so that it follows the page into the dark, and its text stays text.
"""

import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from ost.arms import arm_of
from ost.arms.plan import BASE
from ost.store import publish

# Data colours: Okabe and Ito's set, which stays apart under every common colour blindness. No two entries may be equal,
# for the SVG's colours are found again by their value.
LIGHT = {
    "ink": "#1c232b", "muted": "#616b77", "line": "#d3d9e0", "base": "#9aa3ad", "full": "#4c5866", "random": "#e69f00",
    "ost": "#0072b2", "wide": "#009e73", "violet": "#cc79a7", "sky": "#56b4e9", "right": "#5ba3cf", "wrong": "#d55e00",
}  # fmt: skip
DARK = {
    "ink": "#e8ecf1", "muted": "#a3adb9", "line": "#3a434e", "base": "#818b97", "full": "#c9d1da", "random": "#f0b429",
    "ost": "#4fb0ea", "wide": "#2fc79b", "violet": "#dd9bc0", "sky": "#8fd0f5", "right": "#6fb4dd", "wrong": "#f0803c",
}  # fmt: skip

PROTOCOLS = {"B": "protocol B: same steps", "A": "protocol A: same epochs"}
"""What tells the protocols apart. B comes first: it is the fair comparison."""
DASHED = (0, (3, 3))


def by_protocol(entries: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Entries of a summary by protocol, in their order."""
    groups = {name: [entry for entry in entries if entry["protocol"] == name] for name in PROTOCOLS}
    return {name: own for name, own in groups.items() if own}


def colour_of(name: str) -> str:
    """Colour of an arm, or of the scores of the same name; the base model has one too."""
    return LIGHT["base" if name == BASE else arm_of(name).colour]


def accuracy_chart(entries: Sequence[Mapping]) -> Figure:
    """A point for each entry of a summary, its 95 % interval, and a mark for each seed.

    A row for each label, in the order of the entries; where they are of both protocols, A's are pale.
    """
    labels, groups = list(dict.fromkeys(entry["label"] for entry in entries)), by_protocol(entries)
    figure, axes = canvas(1.0 + (0.1 + 0.2 * len(groups)) * len(labels))
    for place, own in enumerate(groups.values()):
        shift = 0.36 * (place - (len(groups) - 1) / 2)
        for entry in own:
            _draw_accuracy(axes, labels.index(entry["label"]) + shift, entry)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.margins(x=0.12)
    axes.set(ylim=(len(labels) - 0.45, -0.55), xlabel="benchmark accuracy, %")
    axes.grid(visible=False, axis="y")
    for full in [entry for entry in entries if entry["arm"] == "full"][:1]:
        axes.axvline(100 * full["accuracy"], color=LIGHT["full"], linewidth=1, linestyle=DASHED, zorder=0)
    _legend(figure, _protocol_handles(groups))
    return figure


def _draw_accuracy(axes: Axes, y: float, entry: Mapping) -> None:
    look = {"color": colour_of(entry["arm"]), "alpha": _alpha(entry["protocol"])}
    seeds = [100 * value for value in entry["accuracies"]]
    ends = [100 * end for end in entry["interval"] if end is not None]
    if ends:
        axes.plot(ends, [y] * 2, linewidth=2, **look)
        axes.plot(seeds, [y] * len(seeds), "|", **look)
    axes.plot(100 * entry["accuracy"], y, "o", markersize=7, markeredgewidth=0, **look)
    note = {"textcoords": "offset points", "va": "center_baseline", "color": LIGHT["ink"], "fontsize": 9}
    axes.annotate(f"{100 * entry['accuracy']:.1f}", (max(seeds + ends), y), xytext=(8, 0), **note)


def cost_chart(entries: Sequence[Mapping]) -> Figure:
    """A point for each entry of a summary: accuracy against all seconds that choosing and training took.

    A thin line joins the protocols of one subset, A's being pale; a broad one what nothing else beats on both. Ceilings
    are left out: nobody can choose by what they know.
    """
    shown = [entry for own in by_protocol(entries).values() for entry in own if not entry["ceiling"]]
    seconds, unit = time_unit(max((entry["total_seconds"] for entry in shown), default=0.0))
    figure, axes = canvas(3.8)
    points = [(entry["total_seconds"] / seconds, 100 * entry["accuracy"]) for entry in shown]
    placed = list(zip(shown, points, strict=True))
    _draw_front(axes, {point for entry, point in placed if entry["front"]})
    for label in dict.fromkeys(entry["label"] for entry in shown):
        own = [(entry, point) for entry, point in placed if entry["label"] == label]
        colour = colour_of(own[0][0]["arm"])
        axes.plot(*zip(*(point for _, point in own), strict=True), color=colour, linewidth=1, alpha=0.5, zorder=1)
        for entry, point in own:
            axes.plot(*point, "o", color=colour, alpha=_alpha(entry["protocol"]), markersize=8, markeredgewidth=0)
    axes.margins(y=0.12)
    right = max((x for x, _ in points), default=1.0)
    axes.set(xlim=(-0.05 * right, 1.3 * right), ylabel="benchmark accuracy, %")
    axes.set_xlabel(f"choosing and training together, {unit}")
    _legend(figure, _protocol_handles(by_protocol(shown)))
    _name_points(figure, axes, placed)
    return figure


def _draw_front(axes: Axes, points: Collection[tuple[float, float]]) -> None:
    """Join the points that no other is both cheaper and better than; of those equal in one, the better in the other."""
    best = [
        (x, y) for x, y in points if not any(low <= x and high >= y and (low, high) != (x, y) for low, high in points)
    ]
    axes.plot(*zip(*sorted(best), strict=True), color=LIGHT["line"], linewidth=6, zorder=0)


def utility_chart(utility: np.ndarray, wrong: np.ndarray | None = None, claims: bool = True) -> Figure:
    """Histogram of utility (N,), some of it finite, split by the truth `wrong` (N,) where it is known.

    `claims`: what lies below zero may be called the toxic side.

    Values beyond the 0.5 and 99.5 percentiles are counted in the outermost bars; zero is always an edge between bars.
    """
    finite = np.isfinite(utility)
    edges = _edges(utility[finite])
    values = np.clip(utility[finite], edges[0], edges[-1])
    parts = [values] if wrong is None else [values[~wrong[finite]], values[wrong[finite]]]
    colours = [LIGHT["right"], LIGHT["wrong"]]
    figure, axes = canvas(3.0)
    if edges[0] < 0:
        axes.axvspan(edges[0], min(0.0, edges[-1]), color=LIGHT["wrong"], alpha=0.14, linewidth=0, zorder=0)
    axes.hist(parts, edges, stacked=True, color=colours[: len(parts)], linewidth=0)
    axes.axvline(0, color=LIGHT["ink"], linewidth=1)
    axes.set(xlim=(edges[0], edges[-1]), xlabel="utility Δ", ylabel="samples")
    axes.ticklabel_format(axis="x", scilimits=(-3, 4), useMathText=False)
    below = "toxic side, Δ < 0" if claims else "Δ < 0"
    handles = [Patch(color=LIGHT["wrong"], alpha=0.14, linewidth=0, label=below)] if edges[0] < 0 else []
    if wrong is not None:
        pairs = zip(("right answer", "wrong answer"), colours, strict=True)
        handles = [Patch(color=colour, linewidth=0, label=name) for name, colour in pairs] + handles
    _legend(figure, handles)
    return figure


def svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as inline SVG that follows the page's colours and fonts; the same bytes for the same figure.

    `name` keeps the inner ids of several charts on one page apart; `description` is what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    root, _, rest = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', root)[0]
    linked = set(re.findall(r"#([\w-]+)", rest))
    rest = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in linked else "", rest)
    for colour, value in LIGHT.items():
        rest = rest.replace(value, f"var(--{colour})")
    return Markup(f'<svg role="img" aria-label="{escape(description)}" {box}>{rest}')


def png(figure: Figure, path: str | Path) -> None:
    """Publish the figure as a PNG on white."""
    with publish(path) as part:
        figure.savefig(part, format="png", dpi=200, facecolor="white", metadata={"Software": None})


def canvas(height: float) -> tuple[Figure, Axes]:
    """Figure of `height` inches, narrow enough to be read on a phone, and its axes without a frame."""
    figure, (axes,) = stacked(height, 1)
    return figure, axes


def stacked(height: float, count: int) -> tuple[Figure, list[Axes]]:
    """As `canvas`, with so many axes above each other, over one x axis."""
    style = {"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    tints = dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), LIGHT["muted"])
    with matplotlib.rc_context(style | tints | {"axes.edgecolor": LIGHT["line"], "ytick.labelcolor": LIGHT["ink"]}):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        panels = list(figure.subplots(count, sharex=True, squeeze=False)[:, 0])
    for axes in panels:
        axes.set_axisbelow(True)
        axes.grid(color=LIGHT["line"], linewidth=0.6)
        axes.tick_params(length=0)
    return figure, panels


def _alpha(protocol: str) -> float:
    return 0.45 if protocol == "A" else 1.0


def _protocol_handles(protocols: Iterable[str]) -> list[Artist]:
    style = {"marker": "o", "markeredgewidth": 0, "color": LIGHT["muted"], "linewidth": 0}
    return [Line2D([], [], alpha=_alpha(name), label=PROTOCOLS[name], **style) for name in protocols]


def _legend(figure: Figure, handles: list[Artist]) -> None:
    style = {"labelcolor": LIGHT["muted"], "fontsize": 9.5}
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, handlelength=1.2, **style)


def _name_points(figure: Figure, axes: Axes, placed: Sequence[tuple[Mapping, tuple[float, float]]]) -> None:
    """Write each label at its first point, and with its protocol where another of its points lies on the front.

    It goes to the side of the point where it covers the fewest points and other labels.
    """
    names: dict[str, tuple[float, float]] = {}
    for entry, point in placed:
        first = names.setdefault(entry["label"], point)
        if entry["front"] and point != first:
            names[f"{entry['label']}, {entry['protocol']}"] = point
    figure.draw_without_rendering()
    pixels = axes.transData.transform(np.reshape([point for _, point in placed], (-1, 2)))
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in pixels]
    sides = {(9, 0): "left", (-9, 0): "right", (0, 13): "center", (0, -13): "center"}
    look = {"color": LIGHT["ink"], "fontsize": 9, "textcoords": "offset points", "va": "center_baseline"}
    for name, point in names.items():
        boxes = {}
        for offset, align in sides.items():
            note = axes.annotate(name, point, xytext=offset, ha=align, parse_math=False, **look)
            note.set_in_layout(False)
            boxes[note] = note.get_window_extent()
        best = min(boxes, key=lambda note: (_sticks_out(axes, boxes[note]), boxes[note].count_overlaps(taken)))
        taken.append(boxes.pop(best))
        for note in boxes:
            note.remove()


def _sticks_out(axes: Axes, box: Bbox) -> bool:
    return box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1


def _edges(values: np.ndarray, bars: int = 48) -> np.ndarray:
    """About `bars` equal bars over the middle 99 % of the values, with zero on an edge if it is among them."""
    low, high = np.percentile(values, [0.5, 99.5])
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / bars
    return width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)


def time_unit(most: float) -> tuple[float, str]:
    """Seconds in the unit that suits the largest value, and the unit's name."""
    return (3600.0, "hours") if most >= 2 * 3600 else (60.0, "minutes") if most >= 300 else (1.0, "seconds")
