"""Reports: what a curation, a comparison or a study found, as pages and charts that need nothing but themselves."""

from ost.report.answers import Answers, missed, parted
from ost.report.comparison import accuracies_png, comparison_page, costs_png
from ost.report.page import Example, ReportData, Suspect, Unasked, render
from ost.report.study import Line, Panel, study_png

__all__ = [
    "Answers",
    "Example",
    "Line",
    "Panel",
    "ReportData",
    "Suspect",
    "Unasked",
    "accuracies_png",
    "comparison_page",
    "costs_png",
    "missed",
    "parted",
    "render",
    "study_png",
]
