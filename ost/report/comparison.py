"""A comparison in pictures and on a page: accuracy with its interval, and what it cost."""

from collections.abc import Mapping
from pathlib import Path

from ost.report.charts import accuracy_chart, by_protocol, cost_chart, png, svg
from ost.report.template import fill
from ost.report.words import coincidences


def accuracies_png(summary: Mapping, path: str | Path) -> None:
    """Publish the chart of accuracies under protocol B, or A where only that was run, as a PNG on white."""
    png(accuracy_chart(next(iter(by_protocol(summary["entries"]).values()))), path)


def costs_png(summary: Mapping, path: str | Path) -> None:
    """Publish the chart of accuracy against cost as a PNG on white."""
    png(cost_chart(summary["entries"]), path)


def comparison_page(name: str, summary: Mapping) -> str:
    """The comparison as one HTML text that asks for nothing from outside."""
    groups = by_protocol(summary["entries"])
    return fill(
        "comparison.html",
        name=name,
        summary=summary,
        remarks=coincidences(summary["entries"]),
        groups=groups,
        accuracies={
            protocol: svg(accuracy_chart(own), f"accuracy-{protocol}", f"Accuracy of each arm, protocol {protocol}")
            for protocol, own in groups.items()
        },
        cost=svg(cost_chart(summary["entries"]), "cost", "Accuracy of each arm against what it cost"),
    )
