"""The page: what was measured, put into words, numbers and pictures that hold everything they show.

All text that came from data is escaped by the template; images are decoded and written anew as small PNGs.
"""

import base64
import importlib.resources
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from ost.breadth import Breadth
from ost.data import Sample
from ost.data.picture import picture, size_of
from ost.report import charts
from ost.report.charts import Standing, standings
from ost.report.kept import kept_rows, kinds_of

THUMBNAIL = 256
"""Longest edge of an image in the page, in pixels."""
MAX_PIXELS = 16_777_216
"""Larger images are not decoded for the page."""
MAX_TEXT, MAX_IMAGES = 600, 4
"""Characters of a question or an answer, and images of a sample, that the page shows."""


@dataclass(frozen=True)
class Example:
    """A sample worth looking at."""

    sample: Sample
    utility: float
    verdict: bool | None
    """True: known to be wrong. False: known to be right. None: nobody knows."""


@dataclass(frozen=True)
class ReportData:
    """All that the page shows; what is missing is left out, or the page says why."""

    title: str
    arms: list[dict]
    """Rows of `metrics/arms.json`, with `by_task` (task → accuracy) where it is known; several seeds are averaged."""
    utility: np.ndarray
    """(N,) float64, not finite where a sample was quarantined."""
    toxic: int
    """Samples flagged as toxic."""
    wrong: np.ndarray | None
    """(N,) bool, the known truth, or None."""
    useful: list[Example]
    harmful: list[Example]
    audit: dict | None
    """What `ost.audit.audit` returned, or None where nobody knows the truth."""
    breadth: Mapping[str, Breadth]
    """Label of an arm → breadth of what it keeps; empty where nobody measured."""
    ingest: dict
    """`{"pool" | "anchors" | "benchmark": {"read", "kept", "quarantined", "reasons": {reason: count}}}`."""
    warnings: list[str]
    stages: list[dict]
    """`{"stage", "seconds", "flops"}`, in the order in which they ran."""
    facts: dict[str, str]
    """Where the page comes from: commit, seed, proxy, target, method …"""


def render(data: ReportData) -> str:
    """The page as one HTML text that asks for nothing from outside; the same text for the same data."""
    shown = standings(data.arms)
    page = (
        environment()
        .get_template("page.html")
        .render(
            data=data,
            headline=headline(shown),
            remarks=remarks(shown, (data.ingest.get("benchmark") or {}).get("kept")),
            groups=_groups(shown),
            tasks=sorted({task for standing in shown for task in standing.by_task}),
            charts=_charts(data),
            finite=int(np.isfinite(data.utility).sum()),
            negative=int((data.utility < 0).sum()),
            examples=[(name, [_view(example) for example in getattr(data, name)]) for name in ("useful", "harmful")],
            kept=kept_rows(data.audit, data.breadth, shown),
            kinds=kinds_of(data.breadth),
            palettes=palettes(),
        )
    )
    # A text may hold half a surrogate pair, which no file can.
    return page.encode("utf-8", "replace").decode()


def headline(shown: Sequence[Standing]) -> str:
    """The result in one sentence: the narrowest OST arm against Full-SFT, under protocol B if that was run."""
    if not shown:
        return "No arm has been trained and evaluated yet."
    ours = _ours(shown)
    full = _like(ours, shown, "full") if ours else None
    if not ours or not full:
        best = max(shown, key=lambda standing: standing.accuracy)
        return f"{best.label} reaches {percent(best.accuracy)}; there is no OST arm beside a Full-SFT arm to compare."
    gain = points(ours.accuracy, full.accuracy)
    same = "epochs" if ours.protocol == "A" else "steps"
    tail = " Here, selecting did not pay." if gain.startswith("−") else ""
    return (
        f"{ours.label} reaches {percent(ours.accuracy)} where {full.label} reaches {percent(full.accuracy)}: "
        f"{gain} points, at the same {same}.{tail}"
    )


def remarks(shown: Sequence[Standing], questions: int | None) -> list[str]:
    """What else a reader should know about the headline, a sentence each; `questions` is the benchmark's size."""
    ours = _ours(shown)
    full = _like(ours, shown, "full") if ours else None
    if not ours or not full:
        return []
    found = []
    if lot := _like(ours, shown, "random"):
        gain = points(ours.accuracy, lot.accuracy)
        found.append(f"Against {lot.label}, drawn by lot, it is {gain} points ({percent(lot.accuracy)}).")
    if base := _like(ours, shown, "base"):
        verb = (
            "is above" if base.accuracy > full.accuracy else "is below" if base.accuracy < full.accuracy else "equals"
        )
        found.append(f"The base model, without any training, has {percent(base.accuracy)}, which {verb} Full-SFT.")
    saving = next((s for s in shown if (s.arm, s.fraction, s.protocol) == (ours.arm, ours.fraction, "A")), None)
    if saving:
        found.append(_saving(saving, _like(saving, shown, "full") or full))
    return [*found, _noise(ours, full, questions)]


def _saving(ours: Standing, full: Standing) -> str:
    time, reference = ours.mean["total_seconds"], full.mean["total_seconds"]
    text = f"With epochs fixed it has {percent(ours.accuracy)} after {count(ours.mean['steps'])} steps"
    text += f" instead of {count(full.mean['steps'])}"
    if not (time > 0 and reference > 0):
        return f"{text}."
    change = f"{abs(time / reference - 1):.0%} {'more' if time > reference else 'less'}".replace("%", " %")
    return f"{text}; choosing included, that took {duration(time)} where Full-SFT took {duration(reference)}: {change}."


def _noise(ours: Standing, full: Standing, questions: int | None) -> str:
    seeds = min(ours.seeds, full.seeds)
    text = "One seed." if seeds == 1 else f"Mean of {seeds} seeds."
    if not questions:
        return text
    variance = sum(s.accuracy * (1 - s.accuracy) for s in (ours, full)) / (questions * seeds)
    bound = 196 * math.sqrt(variance)
    return (
        f"{text} With {count(questions)} benchmark questions, up to ±{bound:.1f} points could be chance alone (95 %)."
    )


def _ours(shown: Sequence[Standing]) -> Standing | None:
    """The narrowest OST arm; protocol B wins over A (the order of `standings`)."""
    return next((s for s in shown if s.arm == "ost"), None) or next((s for s in shown if s.arm == "ost-wide"), None)


def _like(ours: Standing, shown: Sequence[Standing], arm: str) -> Standing | None:
    """The arm to compare with: under the same protocol if there is one, else as it stands."""
    own = [standing for standing in shown if standing.arm == arm]
    return next((standing for standing in own if standing.protocol == ours.protocol), own[0] if own else None)


def _groups(shown: Sequence[Standing]) -> list[tuple[str, list[tuple[Standing, str]]]]:
    """Table rows by protocol, each with its points against Full-SFT of the same protocol."""
    groups: dict[str, list[tuple[Standing, str]]] = {}
    for standing in sorted(
        shown, key=lambda s: ("", "B", "A").index(s.protocol) if s.protocol in ("", "B", "A") else 3
    ):
        full = _like(standing, shown, "full")
        gain = points(standing.accuracy, full.accuracy) if full and standing.arm != "full" else ""
        groups.setdefault(standing.protocol, []).append((standing, gain))
    return list(groups.items())


def _charts(data: ReportData) -> dict[str, Any]:
    """Inline SVG by name; a chart without anything to show is None."""
    histogram = charts.utility_chart(data.utility, data.wrong)
    drawn = {"utility": histogram and charts.svg(histogram, "utility", "Histogram of utility")}
    if data.arms:
        drawn["accuracy"] = charts.svg(charts.accuracy_chart(data.arms), "accuracy", "Accuracy by arm and protocol")
        drawn["cost"] = charts.svg(charts.cost_chart(data.arms), "cost", "Accuracy against total seconds")
    return drawn


def _view(example: Example) -> dict[str, Any]:
    sample = example.sample
    return {
        "images": [thumbnail(image) for image in sample.images[:MAX_IMAGES]],
        "more_images": max(0, len(sample.images) - MAX_IMAGES),
        "question": _clip(sample.question),
        "answer": _clip(sample.answer),
        "task": sample.task,
        "id": sample.id,
        "utility": example.utility,
        "verdict": example.verdict,
    }


def _clip(text: str) -> str:
    left_out = len(text) - MAX_TEXT
    return text if left_out <= 0 else f"{text[:MAX_TEXT]} … ({left_out:,} more characters)"


def thumbnail(image: bytes) -> dict[str, Any] | None:
    """An encoded image as a data URI of a PNG written here, with the size to show it at; None if it can't be decoded.

    Only pixels pass: no metadata, no colour profile, none of the original bytes.
    """
    try:
        if math.prod(size_of(image)) > MAX_PIXELS:
            return None
        seen = picture(image)
    except Exception:  # Pillow's readers raise many kinds of error on damaged files, and the page must not fail for one
        return None
    clean = Image.new("RGB", seen.size)
    clean.paste(seen)  # of the file, only pixels
    clean.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    clean.save(buffer, format="PNG")
    scale = max(1, 192 // max(clean.size))
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"uri": uri, "width": clean.width * scale, "height": clean.height * scale, "tiny": scale > 1}


def percent(share: float | None) -> str:
    """0.6612 → "66.1 %"."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def points(share: float, reference: float) -> str:
    """Difference of two shares in percentage points with its sign: 0.661, 0.41 → "+25.1".

    Taken between the rounded values, so that the numbers on the page add up.
    """
    text = f"{round(100 * share, 1) - round(100 * reference, 1):+.1f}".replace("-", "−")
    return "±0.0" if text in ("+0.0", "−0.0") else text


def count(number: float | None) -> str:
    """8000 → "8,000"."""
    return "–" if number is None or math.isnan(number) else f"{number:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds in at most two units: 200 → "3 min 20 s"."""
    if seconds is None or math.isnan(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{round(whole / 60) // 60} h {round(whole / 60) % 60} min"


def flops(number: float | None) -> str:
    """1.23e15 → "1.23 P": floating-point operations with an SI prefix."""
    if number is None or math.isnan(number):
        return "–"
    # Round first, so that 999.9 k becomes 1 M and not 1e+03 k.
    number = float(f"{number:.2e}")
    power = min(max(int(math.log10(number) // 3), 0), 8) if number > 0 else 0
    return f"{number / 1000**power:.3g} {' kMGTPEZY'[power]}".strip()


def _tied(text: str) -> Markup:
    """The text, escaped, with numbers and their units kept on one line."""
    kept = r"[±+−]?[\d.,]+ (?:%|points|steps|h\b|min|s\b)|Full-SFT"
    return Markup(re.sub(kept, r'<span class="tied">\g<0></span>', str(escape(text))))


def palettes() -> dict[str, dict[str, str]]:
    """Colours of the pages, by day and by night."""
    return {"light": charts.LIGHT, "dark": charts.DARK}


def environment() -> jinja2.Environment:
    """The templates of this folder; what they are given is escaped."""
    folder = importlib.resources.files("ost.report")
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".html")}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, tied=_tied, count=count, duration=duration, flops=flops)
    return environment
