"""A comparison on its page and in its charts: every arm named, nothing asked for from outside, the front as it is."""

import itertools
import re

import pytest
from arm_rows import row
from PIL import Image

from ost.arms import arm_of, arms
from ost.arms.plan import BASE, Subset
from ost.comparison import summarise
from ost.report import Line, Panel, accuracies_png, comparison_page, costs_png, study_png
from ost.report.charts import LIGHT, cost_chart
from ost.report.study import study_figure

SUBSETS = [Subset(arm.name, 1.0 if arm.whole else 0.2).key for arm in arms().values()]


@pytest.fixture(scope="module")
def summary() -> dict:
    rows = [
        row(subset, 0.3 + 0.02 * place + 0.01 * seed, protocol, seed, total_seconds=50.0 + 10 * place)
        for place, subset in enumerate(SUBSETS)
        for protocol in "BA"
        for seed in (0, 1, 2)
    ]
    rows += [row(BASE, 0.5 + 0.01 * seed, protocol, seed) for protocol in "BA" for seed in (0, 1, 2)]
    audits = {seed: {"purity": dict.fromkeys(SUBSETS, 0.5), "wrong_share": 0.5, "scores": {}} for seed in (0, 1, 2)}
    return summarise(rows, audits)


def test_the_page_names_every_arm_and_its_figures(summary):
    html = comparison_page("mine", summary)
    for entry in summary["entries"]:
        assert entry["label"] in html
        assert f"{100 * entry['accuracy']:.1f}" in html
    assert "before any training: 51.0 %" in html, "the base model's accuracy"
    assert html.count("<svg") == 3 and html.count("<table") == 2
    assert "protocol B" in html and "protocol A" in html


def test_the_page_asks_for_nothing_and_escapes_its_name(summary):
    html = comparison_page("<script>alert(1)</script>", summary)
    assert "<script" not in html and "&lt;script&gt;" in html
    assert not re.search(r"https?://|@import|url\((?!#)", re.sub(r'xmlns[^=]*="[^"]*"', "", html))
    assert comparison_page("x", summary) == comparison_page("x", summary)


@pytest.mark.parametrize("kept", [["full"], ["one-step-20"], SUBSETS])
def test_charts_can_be_drawn_of_any_comparison(kept, summary, tmp_path):
    part = summary | {"entries": [entry for entry in summary["entries"] if entry["subset"] in kept]}
    accuracies_png(part, tmp_path / "accuracy.png")
    costs_png(part, tmp_path / "cost.png")
    for name in ("accuracy", "cost"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255) and image.width > 900
    assert "undefined" not in comparison_page("x", part)


def test_the_line_of_the_cost_chart_joins_what_nothing_beats(summary):
    """Here what costs more is better, so all real arms lie on it, ceilings left out, each at its least cost."""
    line = cost_chart(summary["entries"]).axes[0].lines[0].get_xydata()
    assert all(after[0] > before[0] and after[1] > before[1] for before, after in itertools.pairwise(line))
    best = max(e["accuracy"] for e in summary["entries"] if not arm_of(e["arm"]).is_ceiling)
    assert line[-1][1] == pytest.approx(100 * best)


def test_a_study_is_drawn_with_numbers_or_with_words_on_its_axis(tmp_path):
    points = [{"place": place, "value": 0.5, "range": (0.4, 0.6)} for place in (1, 2, 3)]
    lines, heights = [Line("one", "one-step", points), Line("alone", "full", points[:1])], {}
    for name, options in (("log", {"logarithmic": True}), ("words", {"ticks": ("a", "b", "c")})):
        for aurocs in ([], [Line("one-step", "one-step", points)]):
            panels = [Panel("accuracy", lines, 100), Panel("AUROC", aurocs)]
            study_png(panels, "what is varied", tmp_path / "chart.png", **options)
            with Image.open(tmp_path / "chart.png") as chart:
                assert chart.width > 900
                heights[name, bool(aurocs)] = chart.height
        assert heights[name, True] > heights[name, False], "the second panel lacks"


def test_lines_of_a_study_have_their_kinds_colour_and_a_dash_of_their_own():
    points = [{"place": place, "value": 0.5, "range": (0.4, 0.6)} for place in (1, 2)]
    kinds = {
        "one-step": "one step",
        "one-step-top": "another step",
        "lookahead": "further",
        "lookahead-cover": "for breadth",
    }
    panel = Panel("accuracy", [Line(name, kind, points) for kind, name in kinds.items()])
    (axes,) = study_figure([panel], "what is varied").axes
    drawn = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
    colours, looks = {name: drawn[name][0] for name in kinds.values()}, {drawn[name] for name in kinds.values()}
    assert len(looks) == 4, "no two look the same"
    assert colours["one step"] == colours["another step"] != colours["further"] == colours["for breadth"]
    assert colours["one step"] == LIGHT[arm_of("one-step").colour]


def test_of_two_subsets_that_coincide_the_page_says_so():
    rows = [row("lookahead-20", 0.5, protocol) for protocol in "BA"]
    rows += [row("lookahead-cover-20", 0.5, protocol, same_as=f"lookahead-20-{protocol}") for protocol in "BA"]
    html = re.sub("<[^>]*>", "", comparison_page("x", summarise(rows)))
    told = "Lookahead 20 %, for breadth keeps exactly what Lookahead 20 % keeps: one training stands for both."
    assert html.count(told) == 1
