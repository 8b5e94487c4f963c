"""The metric `number`: ChartQA's relaxed accuracy."""

import math
import re

from ost.evaluation.metrics.text import exact

TOLERANCE = 0.05
"""Of the reference."""
_QUANTITY = re.compile(
    r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?%?", re.IGNORECASE
)


def number(answer: str, reference: str) -> bool:
    """Whether a number is within 5 % of the reference; where either is no number, or that is 0, whether both are equal.

    ChartQA's relaxed accuracy (arXiv:2203.10244, section 5.1) as Pix2Struct computes it (arXiv:2210.03347,
    `relaxed_correctness`): 12 % is 0.12. Besides, thousands may have commas, and equal is what `exact` calls so.
    """
    said, wanted = quantity(answer), quantity(reference)
    if said is None or not wanted:
        return exact(answer, reference)
    return abs(said - wanted) <= TOLERANCE * abs(wanted)


def quantity(text: str) -> float | None:
    """A number as written with thousands commas, an exponent or a percent sign, which divides it by 100; else None."""
    bare = text.strip().replace("−", "-").rstrip(" .")
    if not _QUANTITY.fullmatch(bare):
        return None
    value = float(bare.rstrip("%").replace(",", "")) / (100 if bare.endswith("%") else 1)
    return value if math.isfinite(value) else None
