"""Rows of metrics/arms.json as `tasks.stages.rows` makes them, with costs that are easy to reckon with."""

from ost.arms.plan import BASE, Subset


def row(subset: str, accuracy: float, protocol: str = "B", seed: int = 0, **more) -> dict:
    """The row of a subset of 8,000 samples, or of the base: 400 steps of 0.1 s for all of them; utility takes 8 s."""
    known = None if subset == BASE else Subset.parse(subset)
    name, label, fraction = (known.name, known.label, known.fraction) if known else (BASE, "Base model", 0.0)
    choosing = 8.0 if known and known.arm.utility else 0.0
    steps = 0 if known is None else 400 if protocol == "B" else round(400 * fraction)
    told = {"arm": name, "subset": subset, "label": label, "fraction": fraction, "protocol": protocol, "seed": seed}
    took = {"samples": round(8000 * fraction), "steps": steps, "train_seconds": steps / 10, "select_seconds": choosing}
    took |= {"total_seconds": steps / 10 + choosing, "train_flops": steps * 3e10, "select_flops": choosing * 4e10}
    took["total_flops"] = took["train_flops"] + took["select_flops"]
    return {**told, "accuracy": accuracy, "by_task": {}, **took, "same_as": None, **more}
