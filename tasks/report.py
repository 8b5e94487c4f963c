"""Stage `report`: the arms compared, the harm audited, and one page to look at."""

import importlib.metadata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ost.cost import Cost, Stopwatch
from ost.data import Sample
from ost.report import Example, ReportData, render
from ost.scoring import read_scores
from ost.selection import ARMS, arm_label, fraction_of
from ost.store import publish, read_json, read_table, write_json
from tasks.context import Context, Outcome, git_state
from tasks.harm import audit_scores, truth_of
from tasks.runs import BASE, RUNS

EXAMPLES = 12
"""Samples shown at either end of the ranking."""

CHOOSING = ("models/proxy-warm.manifest.json", "scores/manifest.json", "selections/manifest.json")
"""Manifests of what choosing by utility costs: warm-up, scoring, selection."""


def report(ctx: Context) -> Outcome:
    """Write metrics/arms.json, metrics/audit.json and report/index.html."""
    watch = Stopwatch()
    arms = _arms(ctx)
    write_json(ctx.output("metrics/arms.json"), arms)
    scores = read_scores(ctx.input("scores/utility.parquet"))
    wrong = truth_of(ctx.input("data/truth.parquet"), scores["id"].to_pylist())
    audited = _audit(ctx, scores, wrong)
    write_json(ctx.output("metrics/audit.json"), audited)
    page = render(_page(ctx, arms, scores, wrong, audited))
    with publish(ctx.output("report/index.html")) as part:
        part.write_text(page)
    metrics = {f"accuracy/{row['arm']}-{row['fraction']:g}-{row['protocol']}": row["accuracy"] for row in arms}
    flat = {f"audit/{name}": value for name, value in (audited or {}).items() if isinstance(value, float)}
    return Outcome(metrics | flat, Cost(watch.seconds))


def _arms(ctx: Context) -> list[dict]:
    """Rows of metrics/arms.json; base and Full-SFT stand under both protocols, being the same run in both."""
    choosing = _choosing_cost(ctx)
    keys = {("base", protocol): BASE for protocol in "BA"} | {("full", "A"): "full-B"}
    keys |= {(run.arm, run.protocol): run.key for run in RUNS}
    records = {key: read_json(ctx.input(f"evaluations/{key}.json")) for key in dict.fromkeys(keys.values())}
    rows = []
    for arm in (BASE, *ARMS):
        for protocol in "BA":
            cost = choosing if arm.startswith("ost") else Cost()
            rows.append(_row(ctx, arm, protocol, records[keys[arm, protocol]], cost))
    return rows


def _row(ctx: Context, arm: str, protocol: str, record: dict, choosing: Cost) -> dict:
    return {
        "arm": arm.removesuffix("-wide"),
        "fraction": fraction_of(arm, ctx.params.select),
        "protocol": protocol,
        "seed": ctx.params.seed,
        **record,
        "select_seconds": choosing.seconds,
        "total_seconds": choosing.seconds + record["train_seconds"],
        "select_flops": choosing.flops,
        "total_flops": choosing.flops + record["train_flops"],
    }


def _choosing_cost(ctx: Context) -> Cost:
    return sum((Cost(one["seconds"], one["flops"]) for one in _manifests(ctx, CHOOSING)), Cost())


def _manifests(ctx: Context, paths: Sequence[str]) -> list[dict]:
    return [read_json(ctx.input(path)) for path in paths]


def _audit(ctx: Context, scores: pa.Table, wrong: np.ndarray | None) -> dict | None:
    tables = {arm: read_table(ctx.input(f"selections/{arm}.parquet")) for arm in ARMS}
    if wrong is None:
        return None
    labels = {arm: arm_label(arm, fraction_of(arm, ctx.params.select)) for arm in ARMS}
    return audit_scores(scores, wrong, {labels[arm]: table for arm, table in tables.items()})


def _page(
    ctx: Context, arms: list[dict], scores: pa.Table, wrong: np.ndarray | None, audited: dict | None
) -> ReportData:
    utility = scores["utility"].to_numpy()
    manifests = _manifests(ctx, ("data/manifest.json", *CHOOSING))
    order = np.argsort(-utility, kind="stable")
    order = order[np.isfinite(utility[order])]
    ends = (order[:EXAMPLES], order[::-1][:EXAMPLES])
    pool = ctx.samples("data/pool.parquet")
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
        ingest=read_json(ctx.input("metrics/ingest.json"))["counts"],
        warnings=[warning for manifest in manifests for warning in manifest["warnings"]],
        stages=[{name: manifest[name] for name in ("stage", "seconds", "flops")} for manifest in manifests],
        facts=_facts(ctx),
    )


def _examples(pool: list[Sample], rows: np.ndarray, utility: np.ndarray, wrong: np.ndarray | None) -> list[Example]:
    return [Example(pool[row], float(utility[row]), None if wrong is None else bool(wrong[row])) for row in rows]


def _facts(ctx: Context) -> dict[str, str]:
    params, git = ctx.params, git_state(ctx.root)
    return {
        "commit": git["commit"] + (" (with local changes)" if git["dirty"] else ""),
        "seed": str(params.seed),
        "target": params.models.target,
        "proxy": params.models.proxy,
        "method": f"{params.score.method}, {params.score.optimizer} step, layers {params.score.layers}",
        "selection": f"{params.select.strategy} by {params.select.by}",
        **_agreements(ctx),
        "pool": params.data.pool,
        "OST": importlib.metadata.version("ost-pipeline"),
    }


def _agreements(ctx: Context) -> dict[str, str]:
    """What the scoring's checks found, where they were made."""
    names = {
        "fidelity": "ranks like the exact step in float64",
        "stability": "ranks like another anchor set would",
        "lookahead": "ranks like ten steps",
    }
    found = read_json(ctx.input("scores/manifest.json"))["metrics"]
    return {text: f"ρ = {found[name]:.3f}" for name, text in names.items() if name in found}
