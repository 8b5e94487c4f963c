"""The report: what a curation found, as one HTML page that needs nothing but itself."""

from ost.report.comparison import Line, Panel, accuracies_png, comparison_page, costs_png, study_png
from ost.report.page import Example, ReportData, render

__all__ = [
    "Example",
    "Line",
    "Panel",
    "ReportData",
    "accuracies_png",
    "comparison_page",
    "costs_png",
    "render",
    "study_png",
]
