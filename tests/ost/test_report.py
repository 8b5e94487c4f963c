"""The report page: what it says, what it must never let through, and that it needs nothing but itself."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from arm_rows import row
from PIL import Image, PngImagePlugin

from ost.arms.plan import BASE
from ost.audit.breadth import Breadth
from ost.audit.harm import audit
from ost.comparison import entries_of, summarise
from ost.data import Sample, chat
from ost.report import Example, ReportData, comparison_page, render
from ost.report.charts import LIGHT, accuracy_chart, utility_chart
from ost.report.kept import COLOURS, kept_labels, kinds_of
from ost.report.template import thumbnail
from ost.report.words import duration, flops, headline, points, remarks, utility_words
from ost.selection.by_utility import TOXIC
from ost.selection.signal import Signal

HOSTILE = "<script>alert('x')</script>"
LABELS = ["Base model", "Full-SFT", "Random 20 %", "Lookahead 20 %", "Lookahead 50 %"]


def arms(ours=0.661, full=0.41):
    scores = {BASE: 0.44, "full": full, "random-20": 0.53, "lookahead-20": ours, "lookahead-50": 0.71}
    return [row(subset, score, protocol) for protocol in "AB" for subset, score in scores.items()]


def png(size=(32, 16), colour="grey", mode="RGB", **save):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, format="PNG", **save)
    return buffer.getvalue()


def example(question="What is it?", answer="4 + 5 = 9", task="sum", utility=0.01, verdict=None, images=None):
    images = (png(),) if images is None else images
    return Example(Sample(images, chat(question, answer, len(images)), task), utility, verdict)


def broad(ratio=1.0, **mix):
    """Breadth of 400 kept samples; `mix`: task → share of them, and of the pool where it isn't the same."""
    shares = {task: share if isinstance(share, tuple) else (share, share) for task, share in mix.items()}
    return Breadth(400, 126, 0.625, 40 * ratio, 40.0, shares or {"sum": (0.25, 0.5), "product": (0.75, 0.5)})


def data(**changes):
    rng = np.random.default_rng(0)
    utility, wrong = rng.normal(size=500), rng.random(500) < 0.5
    utility[:7] = np.nan
    values = {
        "title": "A curation",
        "arms": arms(),
        "utility": utility,
        "toxic": 37,
        "wrong": wrong,
        "highest": [example(verdict=False)],
        "lowest": [example(answer="1 + 1 = 8", utility=-0.02, verdict=True)],
        "audit": audit(utility, utility < 0, wrong, {"Lookahead 20 %": utility > 1, "Full-SFT": np.ones(500, bool)}),
        "breadth": {"Lookahead 20 %": broad(0.45), "Full-SFT": broad(sum=0.5, product=0.5)},
        "ingest": {"pool": {"read": 508, "kept": 500, "quarantined": 8, "reasons": {"no image": 1, "too long": 7}}},
        "warnings": ["anchors are few"],
        "stages": [{"stage": "score", "seconds": 200.0, "flops": 1.2e15}],
        "facts": {"commit": "abc123"},
    }
    return ReportData(**(values | changes))


class Tags(HTMLParser):
    """Tags and attributes as a browser sees them, and which tags were left open."""

    def __init__(self, html):
        super().__init__()
        self.found, self.open, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    @property
    def spaced(self):
        """The same with a space between cells."""
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_everything_that_was_measured_is_said():
    tags = Tags(render(data()))
    assert not tags.open
    for words in (*LABELS, "Protocol A", "Protocol B", "+25.1", "anchors are few", "too long: 7", "abc123"):
        assert words in tags.text
    for words in ("4 + 5 = 9", "✓ known right", "1 + 1 = 8", "✗ known wrong", "Δ −0.02", "3 min 20 s", "1.2 P"):
        assert words in tags.text
    assert "7 quarantined samples have no score" in tags.text


def test_hostile_text_is_only_text():
    bad = example(HOSTILE, HOSTILE + '"><img src=x onerror=y>', task=HOSTILE, images=(HOSTILE.encode(), png()))
    rows = [*arms(), row("random-30", 0.5, label=f"{HOSTILE} $x^", by_task={HOSTILE: 0.5})]
    checked = {**data().audit, "by_task": {HOSTILE: data().audit}, "purity": {HOSTILE: 0.5}}
    found = {HOSTILE: broad(**{HOSTILE + '"': 0.5, "sum": 0.5})}
    ingest = {HOSTILE: {"read": 1, "kept": 0, "quarantined": 1, "reasons": {HOSTILE: 1}}}
    stages, facts = [{"stage": HOSTILE, "seconds": 1.0, "flops": 1.0, "reused": True}], {HOSTILE: HOSTILE}
    html = render(
        data(title=HOSTILE, arms=rows, lowest=[bad], warnings=[HOSTILE], audit=checked, ingest=ingest, stages=stages,
             facts=facts, breadth=found)
    )  # fmt: skip
    tags = Tags(html)
    assert not [tag for tag, attrs in tags.found if tag == "script" or any(name.startswith("on") for name in attrs)]
    assert {attrs["src"][:22] for tag, attrs in tags.found if tag == "img"} == {"data:image/png;base64,"}
    assert tags.text.count(HOSTILE) >= 15
    titles = [attrs["title"] for tag, attrs in tags.found if tag == "span" and "--own" in attrs.get("style", "")]
    assert titles == [f'{HOSTILE}": 50.0 %', "sum: 50.0 %"]
    assert "image can't be shown" in html


def test_hostile_arm_in_the_headline_is_only_text():
    tags = Tags(render(data(arms=[row("random-30", 0.5, label=HOSTILE)])))
    assert tags.text.count(f"{HOSTILE} reaches 50.0 %") == 1
    assert "script" not in {tag for tag, _ in tags.found}


def test_page_asks_for_nothing_from_outside():
    page = data(facts={"source": "https://example.org/pool"})
    html = render(page)
    assert re.findall(r"https?://[^<\s]*", html) == ["https://example.org/pool"], "only as plain text"
    assert not re.search(r"@import|url\((?!#)", html)
    loads = [value for _, attrs in Tags(html).found for name in ("src", "href", "xlink:href", "action", "data")
             if (value := attrs.get(name))]  # fmt: skip
    assert loads
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in loads)
    assert not {"link", "script", "iframe", "object", "form"} & {tag for tag, _ in Tags(html).found}


def test_same_data_same_bytes():
    assert render(data()) == render(data())


def test_charts_follow_the_page_into_the_dark():
    body = render(data()).partition("<body>")[2]
    texts = re.findall(r"<text [^>]*>", body)
    assert len(texts) > 30
    assert all("fill: var(--" in text for text in texts), "black text can't be read on a dark page"
    assert not re.search(r"(fill|stroke): #", body)
    assert len(set(LIGHT.values())) == len(LIGHT)
    ids = re.findall(r' id="([^"]*)"', body)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("ours", "full", "gain"),
    [(0.661, 0.41, "+25.1"), (0.38, 0.41, "−3.0"), (0.41, 0.41, "±0.0"), (0.4104, 0.41, "±0.0")],
)
def test_headline_has_the_right_sign(ours, full, gain):
    text = headline(entries_of(arms(ours, full)))
    assert text.startswith(
        f"Lookahead 20 % reaches {100 * ours:.1f} % where Full-SFT reaches {100 * full:.1f} %: {gain} points"
    )
    assert "at the same steps" in text
    assert ("did not pay" in text) == (ours < full)


def test_headline_prefers_protocol_b_and_takes_what_there_is():
    mixed = [
        row(*told) for told in (("full", 0.4, "A"), ("full", 0.5), ("lookahead-20", 0.9, "A"), ("lookahead-20", 0.6))
    ]
    assert "+10.0 points, at the same steps" in headline(entries_of(mixed))
    only_a = [row("full", 0.5, "A"), row("lookahead-20", 0.9, "A")]
    assert "+40.0 points, at the same epochs" in headline(entries_of(only_a))
    assert headline([]).startswith("No arm")


def test_the_untrained_base_reaches_nothing_and_is_no_arm():
    assert headline(entries_of([row(BASE, 0.44)])).startswith("No arm has been trained yet; the untrained base model")
    assert headline(entries_of([row(BASE, 0.44), row("full", 0.4)])).startswith("Full-SFT reaches 40.0 %; there is no")


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (0.44, "has 44.0 %, which is above Full-SFT."),
        (0.4, "has 40.0 %, which is below Full-SFT."),
        (0.41, "has 41.0 %: training on everything gained nothing on this benchmark."),
        (0.4101, "has 41.0 %: training on everything gained nothing on this benchmark."),
    ],
)
def test_the_untrained_base_stands_to_full_sft_as_the_page_shows_both(base, words):
    rows = [row(BASE, base), row("full", 0.41), row("lookahead-20", 0.6)]
    assert f"The base model, without any training, {words}" in remarks(entries_of(rows), None)
    assert "equals" not in Tags(render(data(arms=rows))).text


def test_no_gain_has_no_sign_on_the_page_of_a_comparison():
    rows = [row("full", 0.41), row("lookahead-20", 0.41), row("random-20", 0.38)]
    text = Tags(comparison_page("mine", summarise(rows))).spaced
    assert "Lookahead 20 % 41.0 ±0.0" in text and "Random 20 % 38.0 −3.0" in text


def test_remarks_count_the_cost_of_choosing():
    text = " ".join(remarks(entries_of(arms()), 2000))
    assert "after 80 steps instead of 400" in text
    assert "took 16 s where Full-SFT took 40 s: 60 % less" in text
    assert "44.0 %, which is above Full-SFT" in text
    # 1.96 · sqrt((0.661 · 0.339 + 0.41 · 0.59) / 2000)
    assert "±3.0 points" in text
    dear = [{**r, "total_seconds": 50.0} if r["subset"] == "lookahead-20" else r for r in arms()]
    assert "took 50 s where Full-SFT took 40 s: 25 % more" in " ".join(remarks(entries_of(dear), None))


def test_seeds_are_averaged_and_their_spread_is_shown():
    scores = {"full": (0.4, 0.4), "lookahead-20": (0.6, 0.7)}
    several = [row(subset, one, seed=seed) for subset, own in scores.items() for seed, one in enumerate(own)]
    full, ours = entries_of(several)
    assert (ours["accuracy"], ours["accuracies"], ours["seeds"]) == (pytest.approx(0.65), [0.6, 0.7], [0, 1])
    text = Tags(render(data(arms=several))).text
    assert "60.0–70.0, 2 seeds" in text
    assert "Mean of 2 seeds" in text
    assert full["seeds"] == [0, 1]


def test_page_without_truth():
    text = Tags(render(data(wrong=None, audit=None, highest=[example()]))).text
    assert "could not be audited" in text
    assert "known right" not in text
    assert "wrong answer" not in text


def test_empty_page_says_why():
    empty = data(arms=[], utility=np.full(3, np.nan), wrong=None, highest=[], lowest=[], audit=None, breadth={},
                 ingest={}, warnings=[], stages=[], facts={})  # fmt: skip
    html = render(empty)
    text = Tags(html).text
    assert "nothing to compare" in text
    assert "no histogram" in text
    absent = ("Warning", "A warning", "What each arm keeps", "What came in", "What choosing cost", "samples that rank")
    for words in (*absent, "Where this comes", "Where the kept", "Where the answers", "No claim"):
        assert words not in text
    assert "<svg" not in html


def test_audit_without_a_flag_shows_dashes():
    none = audit(np.arange(3.0), np.zeros(3, bool), np.zeros(3, bool), {"ost": np.zeros(3, bool)})
    assert "– AUROC" in Tags(render(data(audit=none))).text.replace("–AUROC", "– AUROC")


def test_the_page_says_what_ranked_and_what_became_of_both_ends():
    kept, left = example(utility=0.3), example(question="And this?", utility=-0.2)
    kept, left = replace(kept, fate="kept"), replace(left, fate="toxic: it does harm")
    page = data(highest=[kept, kept, left], lowest=[left], ranking="utility_relative", steps=12)
    text = Tags(render(replace(page, chosen="Lookahead 20 %, chosen for breadth,"))).spaced
    assert "First in the order of utility relative to the sample's own loss" in text
    assert "Of these Lookahead 20 %, chosen for breadth, keeps 2 of 3." in text and "toxic: it does harm" in text
    assert "after 12 training steps on the trusted anchors" in text and "one small training step" not in text


@pytest.mark.parametrize(
    ("steps", "has_errors", "words"),
    [
        (None, True, "one small training step on a sample lowers the loss .* by more than the anchors disagree"),
        (None, False, "one small training step .* by more than chance below the anchors, each judged by the others"),
        (1, False, "after 1 training step on the trusted anchors than by the proxy .* speaks against it"),
        (12, True, "after 12 training steps on .* by more than the anchors disagree"),
    ],
)
def test_the_utility_is_told_as_it_was_computed(steps, has_errors, words):
    assert re.search(words, utility_words(steps, has_errors))


def test_the_page_says_where_the_kept_samples_are():
    paths = {"Lookahead 20 %": "selections/lookahead-20.parquet", "Full-SFT": "selections/full.parquet"}
    text = Tags(render(data(selections=paths))).spaced
    assert all(path in text for path in paths.values())
    assert "ost export selections/lookahead-20.parquet --form same --out subset" in text


def test_whether_the_scores_can_tell_is_said_before_anything_of_harm():
    text = Tags(render(data(signal=Signal(100, 0.99, 0.94, 1e-9, 0.3, 0.1)))).spaced
    assert (
        "finds 99.0 % of them likelier with their own answer" in text
        and "94.0 % rank higher with it" in text
        and "No claim" not in text
    )
    text = Tags(render(data(signal=Signal(100, 0.5, 0.46, 0.9, 1.3, 0.1)))).spaced
    assert "No claim can be made about harm or purity: the scores cannot tell right from wrong" in text
    assert text.index("No claim can be made") < text.index("37 of them beyond chance")


def test_scores_that_cannot_tell_call_nothing_harmful():
    harmed = replace(example(utility=-0.2), fate=TOXIC)
    blind, sharp = Signal(100, 0.5, 0.46, 0.9, 1.3, 0.1), Signal(100, 0.99, 0.94, 1e-9, 0.3, 0.1)
    html = render(data(signal=blind, lowest=[harmed]))
    assert "oxic" not in html.partition("<body>")[2] and "Look here" not in html
    text = Tags(html).spaced
    assert "lie below zero, 37 of them beyond chance, but this proxy cannot tell whether they harm." in text
    assert "They have the lowest scores; this proxy cannot tell whether they harm." in text
    assert "left out: its utility is below zero" in text
    text = Tags(render(data(signal=sharp, lowest=[harmed]))).spaced
    assert "and 37 are toxic beyond chance" in text and TOXIC in text and "Look here for what is wrong" in text
    assert "toxic side" in text


def test_an_empty_toxic_list_is_not_offered_as_one():
    assert "and none is toxic beyond chance" in Tags(render(data(toxic=0))).spaced
    blind = Signal(100, 0.5, 0.46, 0.9, 1.3, 0.1)
    assert "lie below zero, none of them beyond chance." in Tags(render(data(toxic=0, signal=blind))).spaced


def test_breadth_stands_beside_purity():
    page = data()
    text = Tags(render(page)).spaced
    purity = 100 * page.audit["purity"]["Lookahead 20 %"]
    assert "arm purity clusters reached effective clusters breadth mix by kind of question" in text
    assert f"Lookahead 20 % {purity:.1f} % 62.5 % 18.0 0.45" in text
    assert "falls into 126 clusters" in text
    assert "kind the pool Lookahead 20 % product 50.0 % 75.0 % sum 50.0 % 25.0 %" in text, "Full-SFT is the pool"
    marked = re.findall(r'<td class="down">(0\.45|1\.00)</td>', render(page))
    assert marked == ["0.45"], "what is narrow is seen"


def test_bars_of_the_mix_are_as_long_as_its_shares():
    spans = [attrs for tag, attrs in Tags(render(data())).found if tag == "span" and "--own" in attrs.get("style", "")]
    found = [
        (attrs["title"], *re.findall(r"--share: ([\d.]+)%; --own: var\(--(\w+)\)", attrs["style"])[0])
        for attrs in spans
    ]
    full, ours = found[:2], found[2:]
    assert full == [("product: 50.0 %", "50.0", COLOURS[0]), ("sum: 50.0 %", "50.0", COLOURS[1])]
    assert ours == [("product: 75.0 %", "75.0", COLOURS[0]), ("sum: 25.0 %", "25.0", COLOURS[1])]


def test_breadth_without_truth_and_purity_without_breadth():
    text = Tags(render(data(wrong=None, audit=None))).spaced
    assert "arm clusters reached" in text and "Purity is not value" not in text
    text = Tags(render(data(breadth={}))).spaced
    assert "arm purity" in text and "clusters" not in text and "mix by kind" not in text


def test_without_sketches_the_mix_is_shown():
    bare = {"Lookahead 20 %": Breadth(100, None, None, None, None, {"sum": (0.25, 0.5), "product": (0.75, 0.5)})}
    text = Tags(render(data(breadth=bare))).spaced
    assert "clusters reached" not in text and "set score.sketch" in text
    assert "product 50.0 % 75.0 %" in text
    one_task = {"Lookahead 20 %": Breadth(0, 126, 0.0, 0.0, 0.0, {"": (0.0, 1.0)})}
    text = Tags(render(data(breadth=one_task))).spaced
    assert "mix by kind" not in text and "0.0 % 0.0 –" in text


def test_kinds_beyond_the_colours_are_one():
    shares = {f"kind {n:02}": (n / 45, n / 45) for n in range(10)}
    found = {"Lookahead 20 %": Breadth(100, None, None, None, None, shares)}
    kinds = kinds_of(found)
    assert [kind.name for kind in kinds] == [f"kind {n:02}" for n in range(4, 10)] + ["4 more"]
    assert len({kind.colour for kind in kinds}) == 7 and {kind.colour for kind in kinds} <= set(LIGHT)
    for side, total in (
        ("kept", sum(kind.kept["Lookahead 20 %"] for kind in kinds)),
        ("pool", sum(k.pool for k in kinds)),
    ):
        assert total == pytest.approx(1), side
    rare = {"Lookahead 20 %": broad(**dict.fromkeys("abcdefg", 0.14), odd=(0.5, 0.01))}
    assert "odd" in {kind.name for kind in kinds_of(rare)}, "rare in the pool, but what a selection is made of"


def test_arms_stand_in_the_order_of_the_tables():
    found = {label: broad() for label in ("other", *reversed(LABELS[1:]))}
    assert kept_labels({"Random 20 %": 0.5, "nothing": None}, found, LABELS) == [*LABELS[1:], "other"]


def test_histogram_counts_every_finite_value_with_zero_on_an_edge():
    utility = np.concatenate([np.random.default_rng(1).normal(0.3, 1, 1000), [1e6, -1e6, np.nan, np.inf]])
    bars = [bar for bar in utility_chart(utility).axes[0].patches if bar.get_height() > 1.5]
    assert sum(bar.get_height() for bar in bars) > 990
    edges = [bar.get_x() for bar in bars]
    assert min(np.abs(edges)) < 1e-9
    assert -5 < min(edges) < max(edges) < 5, "two outliers must not flatten the rest"
    assert utility_chart(np.zeros(5)) is not None


def test_points_stand_at_the_accuracy():
    entries = entries_of(arms())
    points = [line.get_xdata()[0] for line in accuracy_chart(entries).axes[0].lines if line.get_marker() == "o"]
    assert sorted(points) == pytest.approx(sorted(100 * entry["accuracy"] for entry in entries))


def test_of_two_subsets_that_coincide_the_page_says_so():
    rows = [*arms(), row("lookahead-cover-20", 0.661, same_as="lookahead-20-B"), row("full", 0.4, seed=1)]
    rows += [row("random-20", 0.5, seed=1, same_as="full-B")]
    text = Tags(render(data(arms=rows))).text
    told = "Lookahead 20 %, for breadth keeps exactly what Lookahead 20 % keeps: one training stands for both."
    assert text.count(told) == 1
    assert "Random 20 % keeps exactly what Full-SFT keeps under seed 1: one training stands for both." in text


def test_images_are_written_anew():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", HOSTILE)
    hostile = png(pnginfo=notes, icc_profile=HOSTILE.encode()) + HOSTILE.encode()
    shown = thumbnail(hostile)
    clean = base64.b64decode(shown["uri"].removeprefix("data:image/png;base64,"))
    assert HOSTILE.encode() in hostile
    assert HOSTILE.encode() not in clean
    assert not Image.open(io.BytesIO(clean)).info
    assert (shown["width"], shown["height"], shown["tiny"]) == (192, 96, True)


def test_images_are_bounded():
    shown = thumbnail(png((1000, 500)))
    assert (shown["width"], shown["height"], shown["tiny"]) == (256, 128, False)
    assert thumbnail(png((5000, 4000), 0, "1")) is None, "too many pixels to decode for a thumbnail"
    assert thumbnail(png()[:60]) is None
    assert thumbnail(b"P6 1 1 255\nabc") is None, "a reader that was not asked for"
    clear = thumbnail(png(colour=(0, 0, 0, 0), mode="RGBA"))["uri"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(clear))).getpixel((0, 0)) == (255, 255, 255)


def test_long_texts_are_cut_and_say_so():
    html = render(data(highest=[example(question="q" * 5000)]))
    assert "q" * 600 + " … (4,400 more characters)" in html
    assert "q" * 601 not in html


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (9.44, "9.4 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (4320, "1 h 12 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (12, "12"), (999.9e3, "1 M"), (1.234e15, "1.23 P"), (12.4e12, "12.4 T"), (1e30, "1 Q")],
)
def test_flops(number, text):
    assert flops(number) == text


def test_points_add_up_with_the_rounded_accuracies():
    assert points(0.4405, 0.41) == "+3.0"  # shown as 44.0 and 41.0
    assert points(0.38, 0.41) == "−3.0"
