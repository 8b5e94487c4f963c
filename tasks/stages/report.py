"""Stage `report`: the arms compared, the harm audited, and one page to look at."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.anchors import contradicted, gaps, question_of
from ost.arms.plan import BASE, Subset
from ost.audit.breadth import Breadth, breadths, narrow_warnings
from ost.cost import Cost, Stopwatch
from ost.data import Dataset, Sample
from ost.report import Answers, Example, ReportData, Suspect, Unasked, missed, parted, render
from ost.report.answers import Parted
from ost.report.page import UNASKED
from ost.scoring import read_scores
from ost.selection import STRATEGIES
from ost.selection.signal import signal_of
from ost.selection.strategies import ranked_by, ranking_of
from ost.store import publish, read_json, read_table, write_json
from tasks.pipeline import ANCHORED, anchors_beside, manifest_path, report_reads
from tasks.plan import Plan
from tasks.stages.context import Context, Outcome, git_state
from tasks.stages.harm import audit_by_turn, audit_scores, truth_of
from tasks.stages.rows import rows_of

EXAMPLES = 12
"""Samples shown at either end of the ranking, and doubtful anchors at most."""
UNASKED_EXAMPLES = 4
"""Samples shown of a cluster that no anchor is near."""


def report(ctx: Context) -> Outcome:
    """Write metrics/arms.json, metrics/audit.json and report/index.html."""
    watch, plan = Stopwatch(), Plan(ctx.params)
    for path in report_reads(ctx.root, plan):
        ctx.input(path)
    scores = read_scores(ctx.input(f"scores/{plan.main.arm.by.name}.parquet"))
    tables = {one.key: read_table(ctx.input(f"selections/{one.key}.parquet")) for one in plan.subsets}
    breadth = breadths(
        scores, {key: pc.is_valid(one["rank"]).to_numpy() for key, one in tables.items()}, plan.params.seed
    )
    rows = [row | {"breadth": _told(breadth.get(row["subset"]))} for row in rows_of(ctx.root, plan)]
    write_json(ctx.output("metrics/arms.json"), rows)
    wrong = truth_of(ctx.input("data/truth.parquet"), scores["id"].to_pylist())
    labelled = {Subset.parse(key).label: table for key, table in tables.items()}
    by_turn = audit_by_turn(ctx.root, labelled, [one.name for one in plan.scores])
    audited = None if wrong is None else audit_scores(scores, wrong, labelled) | by_turn
    write_json(ctx.output("metrics/audit.json"), audited)
    warnings = _narrow(plan, breadth)
    page = render(_page(ctx, plan, rows, scores, wrong, audited, breadth, tables[plan.main.key], warnings))
    with publish(ctx.output("report/index.html")) as part:
        part.write_text(page)
    return Outcome(_metrics(rows, audited, breadth), Cost(watch.seconds), warnings)


def _metrics(rows: list[dict], audited: dict | None, breadth: Mapping[str, Breadth]) -> dict[str, float]:
    metrics = {f"accuracy/{row['subset']}-{row['protocol']}": row["accuracy"] for row in rows}
    metrics |= {f"audit/{name}": value for name, value in (audited or {}).items() if isinstance(value, float)}
    return metrics | {f"breadth/{key}": one.ratio for key, one in breadth.items() if one.ratio is not None}


def _told(breadth: Breadth | None) -> dict | None:
    return None if breadth is None else breadth.to_json()


def _narrow(plan: Plan, breadth: Mapping[str, Breadth]) -> list[str]:
    """Which of the subsets that the strategy chose are narrow; the others are not to be widened by it."""
    ours = {one.label: breadth[one.key] for one in plan.subsets if one.arm.utility and one.key in breadth}
    return narrow_warnings(ours, plan.params.select.strategy)


def _page(
    ctx: Context,
    plan: Plan,
    rows: list[dict],
    scores: pa.Table,
    wrong: np.ndarray | None,
    audited: dict | None,
    breadth: Mapping[str, Breadth],
    selection: pa.Table,
    warnings: list[str],
) -> ReportData:
    utility, main = scores["utility"].to_numpy(), plan.main
    stages = ["ingest", "warmup", f"score-{plan.main.arm.by.name}", *(f"select-{one.key}" for one in plan.subsets)]
    manifests = [read_json(ctx.input(manifest_path(stage))) for stage in stages]
    order, fates = ranked_by(scores, plan.params.select.by)["row"].to_numpy(), selection["reason"].to_pylist()
    pool, benchmark, models = ctx.samples("pool"), ctx.samples("benchmark"), _models(ctx, plan)
    by_suite, ours = plan.params.evaluate.suite is not None, _main_key(plan)

    def examples(end: np.ndarray) -> list[Example]:
        known = [None if wrong is None else bool(wrong[row]) for row in end]
        samples = pool.at(end.tolist())
        return [
            Example(sample, float(utility[row]), verdict, fates[row])
            for sample, row, verdict in zip(samples, end, known, strict=True)
        ]

    return ReportData(
        title=f"Data selection by {'one-step-train' if main.arm.by.name == 'one-step' else 'lookahead'} utility",
        arms=rows,
        utility=utility,
        toxic=int(pc.sum(scores["toxic"]).as_py()),
        wrong=wrong,
        highest=examples(order[:EXAMPLES]),
        lowest=examples(order[::-1][:EXAMPLES]),
        audit=audited,
        breadth={Subset.parse(key).label: one for key, one in breadth.items()},
        ingest=read_json(ctx.input("metrics/ingest.json"))["counts"],
        warnings=[*dict.fromkeys(warning for manifest in manifests for warning in manifest["warnings"]), *warnings],
        stages=[{name: manifest[name] for name in ("stage", "seconds", "flops")} for manifest in manifests],
        facts=_facts(ctx, manifests[2]),
        ranking=ranking_of(scores, plan.params.select.by),
        chosen=f"{main.label}, chosen {STRATEGIES[_strategy(plan)].how},",
        steps=int(manifests[2]["metrics"]["steps"]) if "steps" in manifests[2]["metrics"] else None,
        has_errors="utility_se" in scores.column_names and scores["utility_se"].null_count < len(scores),
        signal=signal_of(scores),
        selections={one.label: f"selections/{one.key}.parquet" for one in [main, *plan.subsets]},
        parted=_parted(benchmark, plan, models),
        **_of_anchors(ctx, plan, scores),
        missed=missed(benchmark, () if by_suite else models.values(), plan.params.seed, models[ours].label),
        answers=list(models.values()),
    )


def _of_anchors(ctx: Context, plan: Plan, scores: pa.Table) -> dict[str, list]:
    """The anchors that the others contradict, and what none of them asks for; empty where no scores tell."""
    name = plan.main.arm.by.name
    if name not in ANCHORED:
        return {}
    table, found = read_table(ctx.input(anchors_beside(name))), ctx.samples("anchors")
    doubts, pool, unasked = contradicted(table), ctx.samples("pool"), []
    suspects = [Suspect(*one) for one in zip(found.take([doubt.id for doubt in doubts]), doubts, strict=True)]
    for gap in gaps(scores, table, plan.params.seed) if "sketch" in table.column_names else []:
        examples = pool.at(gap.rows[:UNASKED_EXAMPLES].tolist()) if len(unasked) < UNASKED else []
        unasked.append(Unasked(len(gap.rows), gap.far, list(map(_unanswered, examples))))
    return {"doubtful": suspects[:EXAMPLES], "unasked": unasked}


def _unanswered(sample: Sample) -> Sample:
    """The question of a sample, with an empty answer."""
    question = question_of(sample)
    return replace(question, messages=(*question.messages, {"role": "assistant", "content": []}))


def _models(ctx: Context, plan: Plan) -> dict[str, Answers]:
    """What each evaluated model said, by its key."""
    several = len(plan.params.curate.protocols) > 1
    labels = {key: key.capitalize() for key in plan.untrained} | {BASE: "Base model"}
    for one in plan.trainings:
        told = several and one.subset.name != "full"
        labels[one.key] = f"{one.subset.label}, protocol {one.protocol}" if told else one.subset.label
    return {
        key: Answers.read(
            labels[key],
            read_table(ctx.input(f"evaluations/{key}.parquet")),
            read_json(ctx.input(f"evaluations/{key}.json")),
        )
        for key in plan.evaluated
    }


def _parted(benchmark: Dataset, plan: Plan, models: Mapping[str, Answers]) -> Parted | None:
    """The main subset's model beside Full-SFT's, or the base where none is.

    None where a suite evaluates: its questions are not here to be shown.
    """
    if plan.params.evaluate.suite:
        return None
    full, ours = [one.key for one in plan.trainings if one.subset.name == "full"], _main_key(plan)
    return parted(benchmark, models[ours], models[(full or [BASE])[0]], plan.params.seed)


def _main_key(plan: Plan) -> str:
    """The training of the main subset, under protocol B where that was run."""
    return max(one.key for one in plan.trainings if one.subset == plan.main)


def _strategy(plan: Plan) -> str:
    """How the main subset is chosen: as its arm says, or the settings."""
    arm = plan.main.arm
    return arm.name.removeprefix(f"{arm.by.name}-") if arm.name != arm.by.name else plan.params.select.strategy


def _facts(ctx: Context, scored: dict) -> dict[str, str]:
    params, git = ctx.params, git_state(ctx.root)
    return {
        **({"commit": git["commit"] + (" (with local changes)" if git["dirty"] else "")} if git["commit"] else {}),
        "seed": str(params.seed),
        "target": params.models.target,
        "proxy": params.models.proxy,
        "method": f"{Plan(params).main.arm.by.name}, optimizer {params.score.optimizer}, layers {params.score.layers}",
        "selection": f"{_strategy(Plan(params))} by {params.select.by}",
        **_agreements(scored),
        "pool": params.data.pool,
        "OST": importlib.metadata.version("ost-pipeline"),
    }


def _agreements(scored: dict) -> dict[str, str]:
    """What the scoring's checks found, where they were made."""
    names = {
        "fidelity": "ranks like the same in float64",
        "stability": "ranks like another anchor set would",
        "lookahead": "one step ranks like many",
    }
    found = scored["metrics"]
    return {text: f"ρ = {found[name]:.3f}" for name, text in names.items() if name in found}
