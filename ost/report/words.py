"""The words of the pages: what the figures say in sentences, and how numbers are written."""

import math
import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape
from matplotlib.ticker import EngFormatter

from ost.arms.plan import BASE, Training
from ost.evaluation.metrics import AUTO
from ost.report.answers import Answers
from ost.selection.by_utility import TOXIC
from ost.types import Ranking

MANY = 0.05
"""Share of answers that may be cut, or empty, without a word, as in `ost.evaluation.evaluate`, which loads torch."""
LISTED = 6
"""Tasks of a metric that are named; the others are counted."""

Entries = Sequence[Mapping]
"""Of a summary, see `ost.comparison.entries_of`."""


def headline(entries: Entries) -> str:
    """The result in one sentence: the first subset chosen by utility against Full-SFT, under protocol B if that ran."""
    if not entries:
        return "No arm has been trained and evaluated yet."
    ours, full = _compared(entries)
    if not ours or not full:
        trained = [entry for entry in entries if entry["subset"] != BASE]
        if not trained:
            return f"No arm has been trained yet; the untrained base model has {percent(entries[0]['accuracy'])}."
        best = max(trained, key=lambda entry: entry["accuracy"])
        reached = f"{best['label']} reaches {percent(best['accuracy'])}"
        return f"{reached}; there is no arm by utility beside a Full-SFT arm to compare."
    gain = points(ours["accuracy"], full["accuracy"])
    same = "epochs" if ours["protocol"] == "A" else "steps"
    tail = " Here, selecting did not pay." if gain.startswith("−") else ""
    return (
        f"{ours['label']} reaches {percent(ours['accuracy'])} where {full['label']} reaches "
        f"{percent(full['accuracy'])}: {gain} points, at the same {same}.{tail}"
    )


def remarks(entries: Entries, questions: int | None) -> list[str]:
    """What else a reader should know about the headline, a sentence each; `questions` is the benchmark's size."""
    ours, full = _compared(entries)
    if not ours or not full:
        return coincidences(entries)
    found = []
    if lot := _under(ours["protocol"], entries, arm="random"):
        gain = points(ours["accuracy"], lot["accuracy"])
        found.append(f"Against {lot['label']}, drawn by lot, it is {gain} points ({percent(lot['accuracy'])}).")
    if base := _under(ours["protocol"], entries, arm=BASE):
        found.append(f"The base model, without any training, has {percent(base['accuracy'])}{_beside(base, full)}.")
    saving, whole = _under("A", entries, subset=ours["subset"]), _under("A", entries, arm="full")
    if saving and whole:
        found.append(_saving(saving, whole))
    return [*found, _noise(ours, full, questions), *coincidences(entries)]


def coincidences(entries: Entries) -> list[str]:
    """A sentence for each two subsets that are one, with the seeds where they are not one in all."""
    found = []
    for entry in entries:
        for other in dict.fromkeys(key for key in entry["same_as"] if key):
            seeds = [str(seed) for seed, key in zip(entry["seeds"], entry["same_as"], strict=True) if key == other]
            kept = f"{entry['label']} keeps exactly what {Training.parse(other).subset.label} keeps"
            where = "" if len(seeds) == len(entry["seeds"]) else f" under seed {', '.join(seeds)}"
            found.append(f"{kept}{where}: one training stands for both.")
    return list(dict.fromkeys(found))


def judged_words(models: Sequence[Answers]) -> list[str]:
    """How models' answers were judged, a sentence each: by which metrics, within which limit, and what was no answer.

    What is not known is left out, as are shares of cut and empty answers up to MANY.
    """
    metrics = {task: name for one in models for task, name in one.metrics.items()}
    limits = sorted({one.limit for one in models if one.limit})
    found = [f"Answers are compared with the references by {_metrics(metrics, models[0].asked)}."] if metrics else []
    if limits:
        longer = max(one.longer or 0.0 for one in models)
        beyond = f", and the references of {percent(longer)} of the questions are longer" if longer else ""
        remedy = ": set evaluate.max_new_tokens to null, or higher" if longer else ""
        found.append(f"An answer may have up to {' or '.join(map(count, limits))} tokens{beyond}{remedy}.")
    for what, shares in {
        "cut at the limit": {one.label: one.cut for one in models},
        "that are empty": {one.label: one.empty for one in models},
    }.items():
        if many := [f"{label} {percent(share)}" for label, share in shares.items() if share and share > MANY]:
            found.append(f"Answers {what}: {', '.join(many)}.")
    return found


def _metrics(metrics: Mapping[str, str], asked: str | Mapping[str, str] | None) -> str:
    """Metrics with their tasks, and which of them `auto` took; `metrics`: task → name."""
    tasks: dict[str, list[str]] = {}
    for task, name in sorted(metrics.items()):
        tasks.setdefault(name, []).append(task)
    *first, last = (f"{name} ({_some(own)})" for name, own in sorted(tasks.items()))
    told = f"{', '.join(first)} and {last}"
    if len(tasks) == 1:
        told = f"{next(iter(tasks))}{', whatever the task' if len(metrics) > 1 else ''}"
    left = [
        task for task in sorted(metrics) if (asked.get(task, AUTO) if isinstance(asked, Mapping) else asked) == AUTO
    ]
    if len(left) == len(metrics):
        return f"{told}, chosen by auto"
    return f"{told}; auto chose it for {_some(left)}" if left else told


def _some(tasks: Sequence[str]) -> str:
    """The first LISTED of some tasks, and how many more there are."""
    more = [f"{len(tasks) - LISTED} more"] if len(tasks) > LISTED else []
    return ", ".join([*(task or "unnamed" for task in tasks[:LISTED]), *more])


def utility_words(steps: int | None, has_errors: bool, claims: bool = True) -> str:
    """What the utility and its sign mean, and what toxic is.

    `steps`: on the anchors, of a walk; None for one step on the sample. `has_errors`: it has standard errors.
    `claims`: the scores tell enough for anything to be called toxic.
    """
    if steps is None:
        what = (
            "Utility Δ is how much one small training step on a sample lowers the loss on the trusted anchors. Below "
            "zero, the step raises it."
        )
    else:
        what = (
            f"Utility Δ is how much lower a sample's own loss is, in nats, after {count(steps)} training "
            f"{'step' if steps == 1 else 'steps'} on the trusted anchors than by the proxy that was warmed up on the "
            "pool. Below zero, what the anchors teach speaks against it."
        )
    if not claims:
        return f"{what} This proxy cannot tell whether what lies below zero does harm."
    if has_errors:
        return f"{what} Toxic is what lies below zero by more than the anchors disagree."
    return (
        f"{what} Toxic is what lies below zero, and by more than chance below the anchors, each judged by the others."
    )


def below_zero_words(beyond_chance: int, claims: bool) -> str:
    """How many samples lie below zero beyond chance, and what is claimed of them: that they are toxic, or nothing."""
    if not beyond_chance:
        return "none is toxic beyond chance" if claims else "none of them beyond chance"
    if claims:
        return f"{count(beyond_chance)} {'is' if beyond_chance == 1 else 'are'} toxic beyond chance"
    return f"{count(beyond_chance)} of them beyond chance, but this proxy cannot tell whether they harm"


def fate_words(fate: str, claims: bool) -> str:
    """What became of a sample in the choice; not that it does harm, where that cannot be told."""
    return "left out: its utility is below zero" if fate == TOXIC and not claims else fate


def ranking_words(ranking: Ranking) -> str:
    """What the pool was ranked by."""
    return {
        "utility": "utility",
        "utility_relative": "utility relative to the sample's own loss (utility_relative)",
        "utility_per_token": "utility by tokens of the whole sample (utility_per_token)",
    }.get(ranking, ranking)


def _compared(entries: Entries) -> tuple[Mapping | None, Mapping | None]:
    """The first subset that is chosen by utility, protocol B before A, and Full-SFT under the same protocol."""
    ours = _under("B", entries, ours=True) or _under("A", entries, ours=True)
    return ours, ours and _under(ours["protocol"], entries, arm="full")


def _under(protocol: str, entries: Entries, **told: object) -> Mapping | None:
    """The first entry under a protocol of which this is told."""
    return next((one for one in entries if one["protocol"] == protocol and told.items() <= one.items()), None)


def _beside(base: Mapping, full: Mapping) -> str:
    """How the untrained base stands to Full-SFT, as the page shows both."""
    gain = points(base["accuracy"], full["accuracy"])
    if gain == "±0.0":
        return ": training on everything gained nothing on this benchmark"
    return f", which is {'below' if gain.startswith('−') else 'above'} Full-SFT"


def _saving(ours: Mapping, full: Mapping) -> str:
    time, reference = ours["total_seconds"], full["total_seconds"]
    text = f"With epochs fixed it has {percent(ours['accuracy'])} after {count(ours['steps'])} steps"
    text += f" instead of {count(full['steps'])}"
    if not (time and reference):
        return f"{text}."
    change = f"{abs(time / reference - 1):.0%} {'more' if time > reference else 'less'}".replace("%", " %")
    return f"{text}; choosing included, that took {duration(time)} where Full-SFT took {duration(reference)}: {change}."


def _noise(ours: Mapping, full: Mapping, questions: int | None) -> str:
    seeds = min(len(ours["seeds"]), len(full["seeds"]))
    text = "One seed." if seeds == 1 else f"Mean of {seeds} seeds."
    if not questions:
        return text
    asked = questions * seeds
    shares = [
        (one["accuracy"] * asked + 1) / (asked + 2) for one in (ours, full)
    ]  # Agresti and Caffo, 2000: not 0 at 0
    bound = 196 * math.sqrt(sum(share * (1 - share) for share in shares) / (asked + 2))
    return (
        f"{text} With {count(questions)} benchmark questions, up to ±{bound:.1f} points could be chance alone (95 %)."
    )


def percent(share: float | None) -> str:
    """0.6612 → "66.1 %"."""
    return "–" if share is None else f"{100 * share:.1f} %"


def points(share: float, reference: float) -> str:
    """Difference of two shares in percentage points with its sign: 0.661, 0.41 → "+25.1".

    Taken between the rounded values, so that the numbers on the page add up.
    """
    text = f"{round(100 * share, 1) - round(100 * reference, 1):+.1f}".replace("-", "−")
    return "±0.0" if text in ("+0.0", "−0.0") else text


def count(number: float) -> str:
    """8000 → "8,000"."""
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in at most two units: 200 → "3 min 20 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{round(whole / 60) // 60} h {round(whole / 60) % 60} min"


def flops(number: float) -> str:
    """1.23e15 → "1.23 P": floating-point operations with an SI prefix."""
    return EngFormatter()(float(f"{number:.2e}"))  # rounded first, so that 999.9 k becomes 1 M


def tied(text: str) -> Markup:
    """The text, escaped, with numbers and their units kept on one line."""
    kept = r"[±+−]?[\d.,]+ (?:%|points|steps|h\b|min|s\b)|Full-SFT"
    return Markup(re.sub(kept, r'<span class="tied">\g<0></span>', str(escape(text))))
