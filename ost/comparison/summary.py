"""What trials over several seeds say together: means, paired differences, gap recovery, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ost.comparison.arms import ARMS, SCORES, Subset

Row = Mapping[str, Any]
"""A row of metrics/arms.json."""
Interval = tuple[float | None, float | None]

CONFIDENCE = 0.95
COSTS = ("select_seconds", "train_seconds", "total_seconds", "select_flops", "train_flops", "total_flops")


def summarise(
    rows: Sequence[Row], base: Sequence[float] = (), audits: Mapping[int, Mapping | None] | None = None
) -> dict[str, Any]:
    """All that is said of a comparison, as plain values for JSON.

    - `entries`: one for each subset and protocol, see `_entry`, the best first.
    - `smallest_fraction`: protocol → arm → the smallest of its fractions that is not significantly worse than its best.
    - `base`: accuracy of the target before any training, seed by seed.
    - `detection`: by seed and score, how well rank and toxic flag tell wrong from right, where that is known.
    - `seeds`: those that any row has.

    `audits`: seed → what `tasks.harm.audit_trials` found.
    """
    cells, known = _cells(rows), {seed: found for seed, found in (audits or {}).items() if found}
    entries = [_entry(key, own, cells) | {"purity": _purity(key[0], own, known)} for key, own in cells.items()]
    for protocol in sorted({entry["protocol"] for entry in entries}):
        _mark_front([entry for entry in entries if entry["protocol"] == protocol])
    return {
        "seeds": sorted({row["seed"] for row in rows}),
        "base": list(base),
        "detection": [one for seed, found in known.items() for one in _detection(seed, found)],
        "entries": sorted(entries, key=lambda entry: (entry["protocol"] != "B", -entry["accuracy"])),
        "smallest_fraction": {
            protocol: _smallest_fractions(cells, protocol) for protocol in sorted({key[1] for key in cells})
        },
    }


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> tuple[float | None, Interval]:
    """Mean difference over the seeds that both have, and its 95 % t interval; None for no seed, and for one."""
    return mean_interval(_differences(own, other))


def _differences(own: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    return [own[seed] - other[seed] for seed in own if seed in other]


def break_even(sizes: Sequence[float], costs: Sequence[float], full: Sequence[float]) -> float | None:
    """Pool size from which an arm's total cost lies below Full-SFT's; None where it never does.

    Both costs are taken as a line over the pool's size: what every run takes, and what each sample adds. `costs` and
    `full`: at each of the sizes, of which there are two or more.
    """
    own, other = stats.linregress(sizes, costs), stats.linregress(sizes, full)
    saved = float(other.slope - own.slope)
    return max(0.0, float(own.intercept - other.intercept) / saved) if saved > 0 else None


def mean_interval(values: Sequence[float]) -> tuple[float | None, Interval]:
    """Mean and 95 % t interval; no mean of nothing, no interval of fewer than two."""
    if not len(values):
        return None, (None, None)
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, (None, None)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, (float(mean - reach), float(mean + reach))


def _estimate(values: Sequence[float]) -> dict:
    mean, interval = mean_interval(values)
    return {"mean": mean, "interval": interval}


def _cells(rows: Sequence[Row]) -> dict[tuple[str, str], dict[int, Row]]:
    """(subset, protocol) → seed → row. Full-SFT stands under every protocol."""
    cells: dict[tuple[str, str], dict[int, Row]] = {}
    protocols = sorted({row["protocol"] for row in rows})
    for row in rows:
        for protocol in protocols if row["arm"] == "full" else [row["protocol"]]:
            cells.setdefault((row["subset"], protocol), {})[row["seed"]] = row
    return cells


def _entry(key: tuple[str, str], own: Mapping[int, Row], cells: Mapping[tuple[str, str], Mapping[int, Row]]) -> dict:
    """One subset under one protocol.

    `accuracy` and its 95 % `interval`; `against`: difference to each other subset under the same protocol, paired by
    seed, with its interval; `gap_recovery`: (arm − full) / (oracle − full), seed by seed; `mean` of each cost;
    `seconds_ratio`, `flops_ratio`: total cost as a share of Full-SFT's; `front`: nothing is both better and cheaper.
    """
    subset, protocol = key
    accuracies = _accuracies(own)
    mean, interval = mean_interval(list(accuracies.values()))
    others = {name: _accuracies(rows) for (name, under), rows in cells.items() if under == protocol and name != subset}
    arm = Subset.parse(subset)
    return {
        "subset": subset,
        "label": arm.label,
        "arm": arm.arm,
        "ours": ARMS[arm.arm].rating in SCORES,
        "protocol": protocol,
        "fraction": float(np.mean([row["fraction"] for row in own.values()])),
        "seeds": sorted(own),
        "accuracies": [accuracies[seed] for seed in sorted(own)],
        "accuracy": mean,
        "interval": interval,
        "against": {name: _estimate(_differences(accuracies, theirs)) for name, theirs in others.items()},
        "gap_recovery": _gap_recovery(accuracies, cells, protocol),
        **{name: float(np.mean([row[name] for row in own.values()])) for name in COSTS},
        "seconds_ratio": _ratio("total_seconds", own, cells.get(("full", protocol), {})),
        "flops_ratio": _ratio("total_flops", own, cells.get(("full", protocol), {})),
    }


def _purity(subset: str, own: Mapping[int, Row], audits: Mapping[int, Mapping]) -> float | None:
    """Mean share of what the subset keeps of the pool that is right; None where it keeps nothing."""
    found = [audits[seed]["purity"].get(subset) for seed in own if seed in audits]
    values = [value for value in found if value is not None]
    return float(np.mean(values)) if values else None


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
        for name, one in found.get("scores", {}).items()
    ]


def _gap_recovery(accuracies: Mapping[int, float], cells: Mapping, protocol: str) -> dict | None:
    full, oracle = (_accuracies(cells.get((name, protocol), {})) for name in ("full", "oracle"))
    shared = [seed for seed in accuracies if seed in full and seed in oracle and oracle[seed] != full[seed]]
    if not shared:
        return None
    return _estimate([(accuracies[seed] - full[seed]) / (oracle[seed] - full[seed]) for seed in shared])


def _ratio(cost: str, own: Mapping[int, Row], full: Mapping[int, Row]) -> dict | None:
    shared = [seed for seed in own if seed in full]
    if not shared:
        return None
    return _estimate([own[seed][cost] / full[seed][cost] for seed in shared])


def _mark_front(entries: Sequence[dict]) -> None:
    """Note which entries no other is both cheaper and better than; the ceilings stand outside, for nobody has them."""
    real = [entry for entry in entries if not ARMS[entry["arm"]].is_ceiling]
    for entry in entries:
        beaten = any(
            other["accuracy"] > entry["accuracy"] and other["total_seconds"] <= entry["total_seconds"] for other in real
        )
        entry["front"] = entry in real and not beaten


def _smallest_fractions(cells: Mapping[tuple[str, str], Mapping[int, Row]], protocol: str) -> dict[str, float]:
    found: dict[str, float] = {}
    arms = dict.fromkeys(Subset.parse(subset).arm for subset, under in cells if under == protocol)
    for arm in [name for name in arms if not ARMS[name].whole]:
        own = {
            Subset.parse(subset).fraction: _accuracies(rows)
            for (subset, under), rows in cells.items()
            if under == protocol and Subset.parse(subset).arm == arm
        }
        best = max(own, key=lambda fraction: float(np.mean(list(own[fraction].values()))))
        equal = [fraction for fraction in own if not _significantly_worse(own[fraction], own[best])]
        found[arm] = min(equal)
    return found


def _significantly_worse(own: Mapping[int, float], best: Mapping[int, float]) -> bool:
    _, (_, high) = paired(own, best)
    return high is not None and high < 0


def _accuracies(rows: Mapping[int, Row]) -> dict[int, float]:
    return {seed: row["accuracy"] for seed, row in rows.items()}
