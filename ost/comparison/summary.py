"""What trainings over several seeds say together: means, paired differences, gap recovery, and what they cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ost.arms import arm_of
from ost.arms.plan import BASE, Subset

Rows = Mapping[int, Mapping[str, Any]]
"""Seed → row of metrics/arms.json, of one subset under one protocol."""
Audits = Mapping[int, Mapping | None]
"""Seed → what `tasks.stages.harm.audit_subsets` found."""

CONFIDENCE = 0.95
MEANS = (
    "samples", "steps",
    "select_seconds", "train_seconds", "total_seconds", "select_flops", "train_flops", "total_flops",
)  # fmt: skip


def summarise(rows: Sequence[Mapping], audits: Audits | None = None) -> dict[str, Any]:
    """All that is said of a comparison, as plain values for JSON.

    - `entries`: one for each subset and protocol, see `entries_of`, the best first.
    - `smallest_fraction`: protocol → arm → the smallest of its fractions that is not significantly worse than its best;
      None for a protocol where no arm has two seeds in common at two fractions: nothing is significant then. An arm
      that has them not is left out.
    - `base`: accuracy of the target before any training, seed by seed.
    - `detection`: by seed and score, how well rank and toxic flag tell wrong from right, where that is known.
    - `seeds`: those that any row has.
    """
    base = {row["seed"]: row["accuracy"] for row in rows if row["subset"] == BASE}
    entries = entries_of([row for row in rows if row["subset"] != BASE], audits)
    protocols = sorted({entry["protocol"] for entry in entries})
    return {
        "seeds": sorted({row["seed"] for row in rows}),
        "base": [base[seed] for seed in sorted(base)],
        "detection": [one for seed, found in (audits or {}).items() if found for one in _detection(seed, found)],
        "entries": sorted(entries, key=lambda entry: (entry["protocol"] != "B", -entry["accuracy"])),
        "smallest_fraction": {
            protocol: _smallest_fractions([entry for entry in entries if entry["protocol"] == protocol])
            for protocol in protocols
        },
    }


def entries_of(rows: Sequence[Mapping], audits: Audits | None = None) -> list[dict[str, Any]]:
    """One entry for each subset and protocol, in the order of their first rows.

    - `subset`, `label`, `arm`, `protocol`, as in the rows; `ours`: the arm chooses by utility; `ceiling`: by the truth.
    - `seeds`, and for each of them `accuracies`, and `same_as`: the training that it coincides with, or None.
    - `accuracy`, its 95 % `interval`, and `by_task`: means over seeds, as are `fraction` and each of MEANS.
    - `against`: difference to each other subset under the same protocol, paired by seed, as an `estimate`.
    - `gap_recovery`: (arm − full) / (oracle − full), seed by seed; `purity`: share of what it keeps that is right.
    - `seconds_ratio`, `flops_ratio`: total cost as a share of Full-SFT's.
    - `front`: no other is both better and cheaper; ceilings, which nobody has, and the base stand outside.
    """
    groups: dict[tuple[str, str], dict[int, Mapping]] = {}
    for row in rows:
        groups.setdefault((row["protocol"], row["subset"]), {})[row["seed"]] = row
    found = []
    for (protocol, _), own in groups.items():
        peers = {subset: rows for (under, subset), rows in groups.items() if under == protocol}
        found.append(_entry(own, peers) | {"purity": _purity(own, audits or {})})
    for entry in found:
        entry["front"] = _is_real(entry) and not any(_beats(other, entry) for other in found)
    return found


def estimate(values: Sequence[float]) -> dict[str, Any] | None:
    """`mean` and its 95 % t `interval`, (None, None) of a single value; None of nothing."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "interval": (None, None)}
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return {"mean": mean, "interval": (float(mean - reach), float(mean + reach))}


def break_even(sizes: Sequence[float], costs: Sequence[float], full: Sequence[float]) -> float | None:
    """Pool size from which an arm's total cost lies below Full-SFT's; None where it never does.

    Both costs are taken as a line over the pool's size: what every run takes, and what each sample adds. `costs` and
    `full`: at each of the sizes, of which there are two or more.
    """
    own, other = stats.linregress(sizes, costs), stats.linregress(sizes, full)
    saved = float(other.slope - own.slope)
    return max(0.0, float(own.intercept - other.intercept) / saved) if saved > 0 else None


def _entry(own: Rows, peers: Mapping[str, Rows]) -> dict[str, Any]:
    """The entry of one subset, beside the `peers` under the same protocol, by subset, itself among them."""
    seeds, first = sorted(own), next(iter(own.values()))
    arm = None if first["arm"] == BASE else arm_of(first["arm"])
    accuracies, full = [own[seed]["accuracy"] for seed in seeds], peers.get("full", {})
    tasks = sorted({task for row in own.values() for task in row["by_task"]})
    return {
        **{name: first[name] for name in ("subset", "label", "arm", "protocol")},
        "ours": arm is not None and arm.utility,
        "ceiling": arm is not None and arm.is_ceiling,
        "seeds": seeds,
        "accuracies": accuracies,
        "same_as": [own[seed].get("same_as") for seed in seeds],
        "accuracy": _mean(accuracies),
        "interval": estimate(accuracies)["interval"],
        "by_task": {task: _mean(row["by_task"].get(task) for row in own.values()) for task in tasks},
        **{name: _mean(row[name] for row in own.values()) for name in ("fraction", *MEANS)},
        "against": {
            name: estimate([mine - theirs for mine, theirs in _pairs("accuracy", own, rows)])
            for name, rows in peers.items()
            if rows is not own
        },
        "gap_recovery": _gap_recovery(own, full, peers.get("oracle", {})),
        "seconds_ratio": estimate([mine / theirs for mine, theirs in _pairs("total_seconds", own, full)]),
        "flops_ratio": estimate([mine / theirs for mine, theirs in _pairs("total_flops", own, full)]),
    }


def _pairs(figure: str, own: Rows, other: Rows) -> list[tuple[float, float]]:
    """A figure of both, for each seed that both have."""
    return [(own[seed][figure], other[seed][figure]) for seed in own if seed in other]


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _gap_recovery(own: Rows, full: Rows, oracle: Rows) -> dict | None:
    gaps = {seed: oracle[seed]["accuracy"] - full[seed]["accuracy"] for seed in own if seed in full and seed in oracle}
    return estimate([(own[seed]["accuracy"] - full[seed]["accuracy"]) / gap for seed, gap in gaps.items() if gap])


def _purity(own: Rows, audits: Audits) -> float | None:
    """Mean share of what the subset keeps of the pool that is right; None where it keeps nothing."""
    return _mean(audits[seed]["purity"].get(row["subset"]) for seed, row in own.items() if audits.get(seed))


def _detection(seed: int, found: Mapping) -> list[dict]:
    """A row for each score of a seed's audit."""
    return [
        {
            "seed": seed,
            "score": name,
            "wrong_share": found["wrong_share"],
            **{figure: one[figure] for figure in ("auroc", "flagged", "recall")},
            "false_discovery_rate": 0.0 if one["precision"] is None else 1 - one["precision"],
        }
        for name, one in found["scores"].items()
    ]


def _is_real(entry: Mapping) -> bool:
    return entry["subset"] != BASE and not entry["ceiling"]


def _beats(other: Mapping, entry: Mapping) -> bool:
    cheap = other["protocol"] == entry["protocol"] and other["total_seconds"] <= entry["total_seconds"]
    return _is_real(other) and cheap and other["accuracy"] > entry["accuracy"]


def _smallest_fractions(entries: Sequence[Mapping]) -> dict[str, float] | None:
    by_arm: dict[str, dict[float, Mapping]] = {}
    for entry in entries:
        subset = Subset.parse(entry["subset"])
        if subset.share and not subset.arm.whole:
            by_arm.setdefault(subset.name, {})[subset.fraction] = entry
    found = {}
    for arm, own in by_arm.items():
        best = max(own.values(), key=lambda entry: entry["accuracy"])
        reaches = {fraction: _most_against(entry, best) for fraction, entry in own.items() if entry is not best}
        if reaches and None not in reaches.values():
            enough = [fraction for fraction, most in reaches.items() if most >= 0]
            found[arm] = min([*enough, Subset.parse(best["subset"]).fraction])
    return found or None


def _most_against(entry: Mapping, best: Mapping) -> float | None:
    """Upper end of the interval of its difference to the best; None where two seeds in common are wanting."""
    difference = entry["against"].get(best["subset"])
    return difference["interval"][1] if difference else None
