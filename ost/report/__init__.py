"""The report: what a curation found, as one HTML page that needs nothing but itself."""

from ost.report.charts import chart_png, strategies_png
from ost.report.page import Example, ReportData, render

__all__ = ["Example", "ReportData", "chart_png", "render", "strategies_png"]
