"""Studies: one thing is varied, a comparison is made for each of its values, and the result goes to docs/studies."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from statistics import fmean

from flows.compare import FOLDER, compare
from flows.display import console
from ost.arms import arm_of, arms
from ost.comparison.summary import break_even, estimate
from ost.errors import ConfigError
from ost.report import Line, Panel, study_png
from ost.settings import BUILTIN, LLAVA
from ost.store import read_json, write_json
from tasks.settings import load_params


@dataclass(frozen=True)
class Study:
    """What is varied, and what is trained at each of its values."""

    question: str
    axis: str
    """What the x axis shows."""
    variants: dict[float, list[str]]
    """Place on the x axis → the assignments that make the variant."""
    arms: tuple[str, ...] = ("full", "random", "one-step-top", "lookahead")
    fractions: tuple[float, ...] = (0.2,)
    logarithmic: bool = False
    ticks: tuple[str, ...] = ()
    """What stands at 0, 1, 2 … on an x axis that is none of numbers."""
    of_pool_size: bool = False
    """Whether the x axis is the pool's size, so that costs are drawn, and it is told from where on selection pays."""
    paired: bool = False
    """Whether all but what is chosen is the same for a seed, so that it is told what the last value gains over the
    first."""
    place: Callable[[Path], float] | None = field(default=None, repr=False)
    """Reads the place on the x axis from the variant's folder, where it is only known afterwards."""

    @property
    def varies_the_world(self) -> bool:
        """Whether what is varied is the built-in world or its models, so that data of one's own can't be studied so."""
        named = itertools.chain.from_iterable(self.variants.values())
        return any(assignment.startswith(("world.", "base.", "models.")) for assignment in named)


def _each(name: str, *values: float) -> dict[float, list[str]]:
    return {value: [f"{name}={value}"] for value in values}


def _judge_accuracy(folder: Path) -> float:
    """Mean benchmark accuracy of the judge over seeds."""
    return fmean(read_json(path)["accuracy"] for path in folder.glob("seed-*/evaluations/judge.json"))


def _wrong_share(folder: Path) -> float:
    """Mean share of the pool that is wrong over seeds: a world whose errors run out has fewer than it was asked for."""
    return fmean(one["wrong_share"] for one in read_json(folder / "metrics/audit.json").values())


_TALKS = ["world.name=multi-turn", "world.pool=4000", "world.errors=rules"]
"""A pool of conversations whose turns are right or wrong each by itself."""

PASSES = 600 / 8000
"""SFT steps for each sample of the pool: a study of its size keeps the epochs."""

STUDIES: dict[str, Study] = {
    "warmup": Study(
        "How long should the proxy be warmed up?",
        "proxy warm-up, share of an SFT run",
        _each("warmup.fraction", 0.0, 0.05, 0.25, 1.0),
        fractions=(0.2, 0.5),
    ),
    "steps": Study(
        "How many steps should the proxy take on the anchors?",
        "steps on the anchors",
        _each("score.lookahead.steps", 1, 5, 20, 50, 100, 200),
        arms=("full", "lookahead-top", "lookahead"),
        logarithmic=True,
    ),
    "anchors": Study(
        "How many anchors does it take?",
        "anchors",
        _each("world.anchors", 10, 30, 100, 300, 500),
        logarithmic=True,
    ),
    "biased-anchors": Study(
        "What does an anchor set do that knows only some kinds of question?",
        "kinds of question among the anchors",
        {
            1.0: ["world.anchor_tasks=[sum]"],
            2.0: ["world.anchor_tasks=[sum, maximum]"],
            4.0: ["world.anchor_tasks=null"],
        },
    ),
    "fraction": Study(
        "How much of the pool should be kept?",
        "share of the pool that is kept",
        {0.0: []},
        fractions=(0.05, 0.1, 0.2, 0.5, 0.75),
        logarithmic=True,
    ),
    "strategy": Study(
        "What should be kept of what is likely useful?",
        "share of the pool that is kept",
        {0.0: []},
        arms=("full", *(arm.name for arm in arms().values() if arm.utility)),
        fractions=(0.1, 0.2, 0.5),
        logarithmic=True,
    ),
    "noise": Study(
        "How wrong must a pool be for selection to pay?",
        "share of the pool that is wrong",
        _each("world.wrong_share", 0.0, 0.2, 0.4, 0.6, 0.8),
        arms=("full", "random", "one-step-top", "lookahead", "clean"),
        fractions=(0.5,),
        place=_wrong_share,
    ),
    "proxy-size": Study(
        "How small may the proxy be?",
        "hidden size of the proxy; the target's is 128",
        _each("base.proxy_width", 32, 64, 96, 128),
        logarithmic=True,
    ),
    "pool-size": Study(
        "From which pool size on does selection pay?",
        "samples in the pool",
        {
            float(size): [f"world.pool={size}", f"sft.steps={round(size * PASSES)}", "compare.protocols=[A]"]
            for size in (500, 1000, 2000, 4000, 8000, 16000)
        },
        fractions=(0.2, 0.5),
        logarithmic=True,
        of_pool_size=True,
    ),
    "family": Study(
        "Does a proxy of another architecture family do?",
        "target ← proxy",
        {
            float(place): [
                f"models.target={target}",
                f"models.proxy={proxy}",
                "models.allow_cross_family=true",
                "score.layers=language",
            ]
            for place, (target, proxy) in enumerate(itertools.product((BUILTIN, LLAVA), repeat=2))
        },
        ticks=("Qwen3-VL\n← Qwen3-VL", "Qwen3-VL\n← LLaVA", "LLaVA\n← Qwen3-VL", "LLaVA\n← LLaVA"),
    ),
    "turns": Study(
        "What is it worth to mask wrong turns rather than to leave out whole conversations?",
        "what is kept or not",
        {float(place): [*_TALKS, f"select.unit={unit}"] for place, unit in enumerate(("sample", "turn"))},
        arms=("full", "lookahead", "clean"),
        fractions=(0.2, 0.5, 1.0),
        ticks=("sample", "turn"),
        paired=True,
    ),
    "judge": Study(
        "How good must a judge be to beat utility?",
        "accuracy of the judge on the benchmark",
        {
            float(steps): ["models.judge=builtin", f"base.judge_steps={steps}"]
            for steps in (50, 100, 200, 400, 800, 1600)
        },
        arms=("full", "judge", "one-step-top", "lookahead"),
        place=_judge_accuracy,
    ),
}


def study(name: str, workspace: Path, like: str | None = None, assignments: list[str] | None = None) -> dict:
    """Make a study's comparisons, those that are not up to date, and write docs/studies/NAME.json and .png."""
    if name not in STUDIES:
        raise ConfigError(f"no study is named {name!r}; known: {', '.join(STUDIES)}")
    plan, root, points = STUDIES[name], workspace.resolve(), []
    if plan.varies_the_world and not load_params(root / "params.yaml").uses_world:
        others = [other for other, one in STUDIES.items() if not one.varies_the_world]
        raise ConfigError(
            f"the study {name} varies the built-in world, and this workspace has data of its own: run it in one of "
            f"`ost init FOLDER --world handmath`; here there are {', '.join(others)}"
        )
    arms, fractions = f"compare.arms=[{', '.join(plan.arms)}]", f"compare.fractions={list(plan.fractions)}"
    for value, settings in plan.variants.items():
        variant = f"study-{name}-{value:g}"
        console.rule(f"{name}: {' '.join(settings) or 'as it is'}")
        all_settings = ["compare.protocols=[B]", arms, fractions, *settings, *(assignments or [])]
        summary = compare(str(root), variant, all_settings, like)
        like = like or variant  # the others start from what this one has computed
        place = plan.place(root / FOLDER / variant) if plan.place else value
        points.append({"place": place, "settings": settings, "summary": summary})
    result = {"study": name, "question": plan.question, "axis": plan.axis, "points": points}
    if plan.of_pool_size:
        result["break_even"] = _break_even(points)
        for label, found in result["break_even"].items():
            console.print(f"{label} costs less than Full-SFT from {_size(found['seconds'])} on", highlight=False)
    if plan.paired:
        result["gains"] = _gains(points[0], points[-1])
        for label, found in result["gains"].items():
            low, high = found["interval"]
            told = "one seed" if low is None else f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
            console.print(f"{label}: {100 * found['mean']:+.1f} points, {told}", highlight=False)
    write_json(root / f"docs/studies/{name}.json", result)
    draw(result, root / f"docs/studies/{name}.png")
    return result


def draw(result: dict, path: Path) -> None:
    """The chart of a study's result, the content of docs/studies/NAME.json."""
    plan, points = STUDIES[result["study"]], result["points"]
    panels = [
        Panel("benchmark accuracy, %", _accuracies(points), 100),
        Panel("AUROC, right against wrong", _aurocs(points)),
        Panel("total FLOPs, Full-SFT = 1", _costs(points) if plan.of_pool_size else []),
    ]
    study_png(panels, plan.axis, path, plan.logarithmic, plan.ticks)


def _gains(first: dict, last: dict) -> dict[str, dict]:
    """Subset → the mean difference in accuracy, last less first, and its interval over seeds; of what is ours."""
    before = {entry["subset"]: entry for entry in _entries(first)}
    return {
        entry["label"]: estimate(
            [
                mine - theirs
                for mine, theirs in zip(entry["accuracies"], before[entry["subset"]]["accuracies"], strict=True)
            ]
        )
        for entry in _entries(last)
        if entry["ours"]
    }


def _break_even(points: list[dict]) -> dict[str, dict[str, float | None]]:
    """Subset → the pool size from which it costs less than Full-SFT at as many epochs, in seconds and in FLOPs."""
    known = [{e["label"]: e for e in point["summary"]["entries"] if e["protocol"] == "A"} for point in points]
    sizes, full = [point["place"] for point in points], arm_of("full").label
    return {
        label: {
            unit: break_even(sizes, *([one[name][f"total_{unit}"] for one in known] for name in (label, full)))
            for unit in ("seconds", "flops")
        }
        for label in known[0]
        if label != full
    }


def _size(samples: float | None) -> str:
    return "no pool size" if samples is None else f"a pool of {samples:,.0f} samples"


def _accuracies(points: list[dict]) -> list[Line]:
    """A line for each subset over the variants; where there is one variant, for each arm over its fractions."""
    alone = len(points) == 1

    def name(entry: dict) -> str:
        return arm_of(entry["arm"]).label.replace(" {share}", "") if alone else entry["label"]

    return _lines(
        (name(entry), entry["arm"], entry["fraction"] if alone else point["place"], entry["accuracies"])
        for point in points
        for entry in _entries(point)
    )


def _costs(points: list[dict]) -> list[Line]:
    """A line for each subset over the variants: what choosing and training cost together, as a share of Full-SFT's."""
    return _lines(
        (entry["label"], entry["arm"], point["place"], [entry["flops_ratio"]["mean"]])
        for point in points
        for entry in _entries(point)
        if entry["flops_ratio"]
    )


def _entries(point: dict) -> list[dict]:
    """A variant's arms under protocol B, or under A where only that was asked for; Full-SFT stands under both."""
    under = {name: [one for one in point["summary"]["entries"] if one["protocol"] == name] for name in "BA"}
    return max(under.values(), key=len)


def _aurocs(points: list[dict]) -> list[Line]:
    """A line for each score over the variants: how well its rank tells right from wrong, where that is known.

    None of a single variant, which has no line, and of one in which all is right.
    """
    if len(points) == 1:
        return []
    found: dict[tuple[str, float], list[float]] = {}
    for point in points:
        for one in [one for one in point["summary"]["detection"] if one["auroc"] is not None]:
            found.setdefault((one["score"], point["place"]), []).append(one["auroc"])
    return _lines((score, score, place, values) for (score, place), values in found.items())


def _lines(found: Iterable[tuple[str, str, float, list[float]]]) -> list[Line]:
    """Lines in the order of their kinds and names, from (name, kind, place, what each seed gave)."""
    lines: dict[tuple[str, str], list[dict]] = {}
    for name, kind, place, values in found:
        point = {"place": place, "value": fmean(values), "range": (min(values), max(values))}
        lines.setdefault((kind, name), []).append(point)
    return [Line(name, kind, sorted(own, key=itemgetter("place"))) for (kind, name), own in sorted(lines.items())]
