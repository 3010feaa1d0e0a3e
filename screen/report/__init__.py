"""The report: one HTML page about a warehouse and the models that were trained on it."""

from screen.report.build import build_report

__all__ = ["build_report"]
