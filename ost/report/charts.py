"""The report's charts, written as inline SVG for the page.

The SVG holds no colours but CSS variables, so that it follows the page into the dark, and its text stays text.
"""

import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from ost.selection import arm_label

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

ORDER = {"base": 0, "full": 1, "random": 2, "ost": 4, "ost-wide": 5}
"""Where an arm stands in tables and charts; others come between `random` and `ost`."""

MEASURES = (
    "accuracy", "samples", "steps", "select_seconds", "train_seconds", "total_seconds", "select_flops", "train_flops",
    "total_flops",
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """One arm under one protocol, averaged over its seeds."""

    arm: str
    fraction: float
    protocol: str
    """`A`, `B`, or empty for the untrained base model."""
    seeds: int
    low: float
    high: float
    mean: Mapping[str, float]
    """Each of MEASURES; NaN where no row has it. Accuracies in 0..1, times in seconds."""
    by_task: Mapping[str, float]

    @property
    def accuracy(self) -> float:
        """Mean accuracy, 0..1."""
        return self.mean["accuracy"]

    @property
    def label(self) -> str:
        """The arm as a person calls it."""
        return arm_label(self.arm, self.fraction)


def standings(arms: Sequence[Mapping]) -> list[Standing]:
    """The rows of `metrics/arms.json` grouped by arm, fraction and protocol, in the order they are shown."""
    groups: dict[tuple, list[Mapping]] = {}
    for row in arms:
        protocol = "" if row["arm"] == "base" else str(row.get("protocol") or "")
        groups.setdefault((row["arm"], float(row["fraction"]), protocol), []).append(row)
    found = [_standing(*key, rows) for key, rows in groups.items()]
    # B comes first: it is the fair comparison, at the same number of steps.
    return sorted(found, key=lambda s: (ORDER.get(s.arm, 3), s.arm, s.fraction, s.protocol != "B", s.protocol))


def _standing(arm: str, fraction: float, protocol: str, rows: list[Mapping]) -> Standing:
    scores = [row["accuracy"] for row in rows]
    tasks = dict.fromkeys(task for row in rows for task in row.get("by_task") or {})
    by_task = {task: _mean([(row.get("by_task") or {}).get(task) for row in rows]) for task in sorted(tasks)}
    mean = {name: _mean([row.get(name) for row in rows]) for name in MEASURES}
    seeds = len({row.get("seed") for row in rows})
    return Standing(arm, fraction, protocol, seeds, min(scores), max(scores), mean, by_task)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def accuracy_chart(arms: Sequence[Mapping]) -> Figure:
    """Bars: accuracy by arm, one bar a protocol, a whisker from the lowest to the highest seed."""
    shown = standings(arms)
    colours, names = _colours(shown), list(dict.fromkeys(standing.label for standing in shown))
    figure, axes = canvas(1.15 + 0.56 * len(names))
    for place, name in enumerate(names):
        own = [standing for standing in shown if standing.label == name]
        for nth, standing in enumerate(own):
            _bar(axes, place + 0.4 * (nth - (len(own) - 1) / 2), standing, colours[name])
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlim=(0, 108), ylim=(len(names) - 0.45, -0.55), xlabel="benchmark accuracy, %", xticks=range(0, 101, 20))
    axes.grid(visible=False, axis="y")
    for full in [standing for standing in shown if standing.arm == "full"][:1]:
        axes.axvline(100 * full.accuracy, color=LIGHT["full"], linewidth=1, linestyle=(0, (3, 3)), zorder=0)
    _protocols(figure, shown, lambda alpha: Patch(color=LIGHT["muted"], alpha=alpha, linewidth=0))
    return figure


def _bar(axes: Axes, y: float, standing: Standing, colour: str) -> None:
    value, end = 100 * standing.accuracy, 100 * standing.high
    axes.barh(y, value, 0.36, color=colour, alpha=_alpha(standing.protocol), linewidth=0)
    if standing.seeds > 1:
        axes.plot([100 * standing.low, end], [y, y], color=LIGHT["ink"], linewidth=1.2)
    axes.text(end + 1.2, y, f"{value:.1f}", va="center_baseline", color=LIGHT["ink"], fontsize=9.5)


def cost_chart(arms: Sequence[Mapping]) -> Figure:
    """Points: accuracy against all seconds that an arm took; a line joins the protocols of one arm."""
    shown = [standing for standing in standings(arms) if np.isfinite(standing.mean["total_seconds"])]
    colours = _colours(shown)
    seconds, unit = time_unit(max((standing.mean["total_seconds"] for standing in shown), default=0.0))
    points = [(standing.mean["total_seconds"] / seconds, 100 * standing.accuracy) for standing in shown]
    figure, axes = canvas(3.5)
    for name, colour in colours.items():
        own = [point for standing, point in zip(shown, points, strict=True) if standing.label == name]
        axes.plot(*zip(*own, strict=True), color=colour, linewidth=1.2, alpha=0.6, zorder=1)
    for standing, (x, y) in zip(shown, points, strict=True):
        alpha = _alpha(standing.protocol)
        axes.plot(x, y, "o", color=colours[standing.label], alpha=alpha, markersize=9, markeredgewidth=0)
    right, top = np.max([*points, (1e-3, 1.0)], axis=0)
    floor = min((y for _, y in points), default=0.0)
    axes.set(xlim=(-0.05 * right, 1.3 * right), ylim=(max(floor - 8, -3), min(top + 9, 104)))
    axes.set(xlabel=f"choosing and training together, {unit}", ylabel="benchmark accuracy, %")
    _protocols(figure, shown, lambda alpha: Line2D([], [], marker="o", color=LIGHT["muted"], alpha=alpha, linewidth=0))
    _name_points(figure, axes, [standing.label for standing in shown], points)
    return figure


def utility_chart(utility: np.ndarray, wrong: np.ndarray | None = None) -> Figure | None:
    """Histogram of utility (N,), split by the truth `wrong` (N,) where it is known; None where no utility is finite.

    Values beyond the 0.5 and 99.5 percentiles are counted in the outermost bars; zero is always an edge between bars.
    """
    finite = np.isfinite(utility)
    if not finite.any():
        return None
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
    handles = [Patch(color=LIGHT["wrong"], alpha=0.14, linewidth=0, label="toxic side, Δ < 0")] if edges[0] < 0 else []
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


def _colours(shown: Sequence[Standing]) -> dict[str, str]:
    """A colour for each label; arms beyond the usual four take the spare ones in turn."""
    spare: Iterator[str] = itertools.cycle(("wide", "violet", "sky"))
    chosen: dict[str, str] = {}
    for standing in shown:
        if standing.label not in chosen:
            fixed = standing.arm in ("base", "full", "random", "ost") and LIGHT[standing.arm] not in chosen.values()
            chosen[standing.label] = LIGHT[standing.arm if fixed else next(spare)]
    return chosen


def _alpha(protocol: str) -> float:
    return 0.45 if protocol == "A" else 1.0


def _protocols(figure: Figure, shown: Sequence[Standing], handle: Callable[[float], Artist]) -> None:
    """Legend of the protocols that are shown."""
    texts = {"B": "protocol B: same steps", "A": "protocol A: same epochs"}
    handles = []
    for protocol in [name for name in texts if any(standing.protocol == name for standing in shown)]:
        handles.append(handle(_alpha(protocol)))
        handles[-1].set_label(texts[protocol])
    _legend(figure, handles)


def _legend(figure: Figure, handles: list[Artist]) -> None:
    style = {"labelcolor": LIGHT["muted"], "fontsize": 9.5}
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, handlelength=1.2, **style)


def _name_points(figure: Figure, axes: Axes, names: list[str], points: list) -> None:
    """Write each label once, at the first side of its point where it covers neither a point nor another label."""
    figure.draw_without_rendering()
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in axes.transData.transform(points or np.empty((0, 2)))]
    sides = [((9, 0), "left"), ((-9, 0), "right"), ((0, 13), "center"), ((0, -13), "center")]
    for name, point in dict(zip(reversed(names), reversed(points), strict=True)).items():
        for offset, align in sides:
            place = {"xytext": offset, "textcoords": "offset points", "ha": align, "va": "center_baseline"}
            note = axes.annotate(name, point, color=LIGHT["ink"], fontsize=9.5, parse_math=False, **place)
            note.set_in_layout(False)
            box = note.get_window_extent()
            free = axes.bbox.x1 >= box.x1 and axes.bbox.x0 <= box.x0 and not box.count_overlaps(taken)
            if free or offset == sides[-1][0]:
                taken.append(box)
                break
            note.remove()


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
