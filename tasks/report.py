"""Stage `report`: the arms compared, the harm audited, and one page to look at."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.breadth import Breadth, breadths, narrow_warnings
from ost.cost import Cost, Stopwatch
from ost.data import Dataset
from ost.report import Example, ReportData, render
from ost.scoring import read_scores
from ost.selection import ARMS, arm_label, fraction_of
from ost.store import publish, read_json, read_table, write_json
from tasks.context import Context, Outcome, git_state
from tasks.costs import cost_of, priced
from tasks.harm import audit_scores, truth_of
from tasks.runs import BASE, RUNS

Value = TypeVar("Value")

EXAMPLES = 12
"""Samples shown at either end of the ranking."""

CHOOSING = ("models/proxy-warm.manifest.json", "scores/manifest.json", "selections/manifest.json")
"""Manifests of what choosing by utility costs: warm-up, scoring, selection."""


def report(ctx: Context) -> Outcome:
    """Write metrics/arms.json, metrics/audit.json and report/index.html."""
    watch = Stopwatch()
    scores = read_scores(ctx.input("scores/utility.parquet"))
    tables = {arm: read_table(ctx.input(f"selections/{arm}.parquet")) for arm in ARMS}
    breadth = _breadth(ctx, scores, tables)
    arms = _arms(ctx, breadth)
    write_json(ctx.output("metrics/arms.json"), arms)
    wrong = truth_of(ctx.input("data/truth.parquet"), scores["id"].to_pylist())
    audited = None if wrong is None else audit_scores(scores, wrong, _labelled(ctx, tables))
    write_json(ctx.output("metrics/audit.json"), audited)
    page = render(_page(ctx, arms, scores, wrong, audited, breadth))
    with publish(ctx.output("report/index.html")) as part:
        part.write_text(page)
    return Outcome(_metrics(arms, audited, breadth), Cost(watch.seconds), _narrow(ctx, breadth))


def _metrics(arms: list[dict], audited: dict | None, breadth: Mapping[str, Breadth]) -> dict[str, float]:
    metrics = {f"accuracy/{row['arm']}-{row['fraction']:g}-{row['protocol']}": row["accuracy"] for row in arms}
    metrics |= {f"audit/{name}": value for name, value in (audited or {}).items() if isinstance(value, float)}
    return metrics | {f"breadth/{arm}": one.ratio for arm, one in breadth.items() if one.ratio is not None}


def _arms(ctx: Context, breadth: Mapping[str, Breadth]) -> list[dict]:
    """Rows of metrics/arms.json; base and Full-SFT stand under both protocols, being the same run in both."""
    choosing = cost_of(_manifests(ctx, CHOOSING))
    keys = {("base", protocol): BASE for protocol in "BA"} | {("full", "A"): "full-B"}
    keys |= {(run.arm, run.protocol): run.key for run in RUNS}
    records = {key: read_json(ctx.input(f"evaluations/{key}.json")) for key in dict.fromkeys(keys.values())}
    told = {arm: one.to_json() for arm, one in breadth.items()}
    rows = []
    for arm in (BASE, *ARMS):
        for protocol in "BA":
            cost = choosing if arm.startswith("ost") else Cost()
            row = _row(ctx, arm, protocol, records[keys[arm, protocol]], cost)
            rows.append(row | {"breadth": told.get(arm)})
    return rows


def _row(ctx: Context, arm: str, protocol: str, record: dict, choosing: Cost) -> dict:
    named = {
        "arm": arm.removesuffix("-wide"),
        "fraction": fraction_of(arm, ctx.params.select),
        "protocol": protocol,
        "seed": ctx.params.seed,
    }
    return named | priced(record, choosing)


def _manifests(ctx: Context, paths: Sequence[str]) -> list[dict]:
    return [read_json(ctx.input(path)) for path in paths]


def _breadth(ctx: Context, scores: pa.Table, tables: Mapping[str, pa.Table]) -> dict[str, Breadth]:
    """Arm → breadth of what it keeps."""
    return breadths(scores, {arm: pc.is_valid(one["rank"]).to_numpy() for arm, one in tables.items()}, ctx.params.seed)


def _narrow(ctx: Context, breadth: Mapping[str, Breadth]) -> list[str]:
    """Which of the arms that the strategy chose for are narrow; the others are not to be widened by it."""
    ours = {arm: one for arm, one in breadth.items() if arm.startswith("ost")}
    return narrow_warnings(_labelled(ctx, ours), ctx.params.select.strategy)


def _labelled(ctx: Context, by_arm: Mapping[str, Value]) -> dict[str, Value]:
    """What was found of each arm, by the name that a person calls it."""
    return {arm_label(arm, fraction_of(arm, ctx.params.select)): value for arm, value in by_arm.items()}


def _page(
    ctx: Context,
    arms: list[dict],
    scores: pa.Table,
    wrong: np.ndarray | None,
    audited: dict | None,
    breadth: Mapping[str, Breadth],
) -> ReportData:
    utility = scores["utility"].to_numpy()
    manifests = _manifests(ctx, ("data/manifest.json", *CHOOSING))
    order = np.argsort(-utility, kind="stable")
    order = order[np.isfinite(utility[order])]
    ends = (order[:EXAMPLES], order[::-1][:EXAMPLES])
    pool = ctx.samples("pool")
    useful, harmful = (_examples(pool, end, utility, wrong) for end in ends)
    return ReportData(
        title="Data selection by one-step-train utility",
        arms=arms,
        utility=utility,
        toxic=int(pc.sum(scores["toxic"]).as_py()),
        wrong=wrong,
        useful=useful,
        harmful=harmful,
        audit=audited,
        breadth=_labelled(ctx, breadth),
        ingest=read_json(ctx.input("metrics/ingest.json"))["counts"],
        warnings=[warning for manifest in manifests for warning in manifest["warnings"]] + _narrow(ctx, breadth),
        stages=[{name: manifest[name] for name in ("stage", "seconds", "flops")} for manifest in manifests],
        facts=_facts(ctx),
    )


def _examples(pool: Dataset, rows: np.ndarray, utility: np.ndarray, wrong: np.ndarray | None) -> list[Example]:
    return [Example(pool[int(row)], float(utility[row]), None if wrong is None else bool(wrong[row])) for row in rows]


def _facts(ctx: Context) -> dict[str, str]:
    params, git = ctx.params, git_state(ctx.root)
    return {
        "commit": git["commit"] + (" (with local changes)" if git["dirty"] else ""),
        "seed": str(params.seed),
        "target": params.models.target,
        "proxy": params.models.proxy,
        "method": f"{params.score.method}, optimizer {params.score.optimizer}, layers {params.score.layers}",
        "selection": f"{params.select.strategy} by {params.select.by}",
        **_agreements(ctx),
        "pool": params.data.pool,
        "OST": importlib.metadata.version("ost-pipeline"),
    }


def _agreements(ctx: Context) -> dict[str, str]:
    """What the scoring's checks found, where they were made."""
    names = {
        "fidelity": "ranks like the same in float64",
        "stability": "ranks like another anchor set would",
        "lookahead": "one step ranks like many",
    }
    found = read_json(ctx.input("scores/manifest.json"))["metrics"]
    return {text: f"ρ = {found[name]:.3f}" for name, text in names.items() if name in found}
